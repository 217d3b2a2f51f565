"""A plain server of the OpenAI dialect, and pieces of streams for tests that say themselves what it answers."""

from __future__ import annotations

from typing import ClassVar

from tests.fakes.openai_model import DONE, OpenAIDialectServer, data, event

HELLO = "say Hello there!"
WORDS = ("Hel", "lo ", "the", "re!")
"""What it answers to HELLO, token by token."""
USAGE = {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}
"""What that took."""

FINISH = event(finish_reason="stop")
COUNTED = data({"object": "chat.completion.chunk", "choices": [], "usage": USAGE})
END = FINISH + COUNTED + DONE


class OpenAIServer(OpenAIDialectServer):
    """One that takes every parameter."""

    fields: ClassVar = {}
