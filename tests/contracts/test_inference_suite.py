"""The contract suite of inference providers sees what it hunts: its checks fail where the bug is planted."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.inference.providers.vllm import VLLM, VLLMConfig
from services.inference.remote import http
from stackmesh.errors import Internal, MeshError
from tests.contracts.inference_provider.failing import FailingContract
from tests.contracts.inference_provider.subject import Subject
from tests.fakes.vllm_server import VLLMServer

MODEL = "fake-model"


@asynccontextmanager
async def opened(kind: type[VLLM]) -> AsyncGenerator[Subject]:
    async with VLLMServer(MODEL) as server:
        config = VLLMConfig(url=server.url, max_connections=4, connect_timeout=0.3, read_timeout=0.5)
        async with kind(config) as provider:
            yield Subject.over(server, provider, MODEL, places=4)


class Leaky(http.Http):
    """The bug: what fails keeps its connection's place."""

    @asynccontextmanager
    async def _answer(self, *request: Any, **options: Any) -> AsyncGenerator[Any]:
        try:
            async with super()._answer(*request, **options) as response:
                yield response
        except BaseException:
            self._slots._value -= 1
            raise


class OnLeaky(VLLM):
    def __init__(self, config: VLLMConfig) -> None:
        super().__init__(config)
        self._transport = Leaky(self._transport.endpoint)


class Trusting(VLLM):
    """The bug: a stream that ends has said all it had to."""

    async def stream_chat_completion(self, request: Any) -> Any:
        chunks = await super().stream_chat_completion(request)

        async def all_is_well() -> AsyncGenerator[Any]:
            try:
                async for chunk in chunks:
                    yield chunk
            except Exception:  # noqa: S110, BLE001
                pass

        return all_is_well()


class Vague(VLLM):
    """The bug: whatever goes wrong is Internal."""

    async def chat_completion(self, request: Any) -> Any:
        try:
            return await super().chat_completion(request)
        except Exception as error:  # noqa: BLE001 -- that is the bug
            raise Internal(str(error)) from None


SEEN = [
    (OnLeaky, lambda suite, subject: suite.test_a_status_keeps_its_meaning(subject, 500)),
    (OnLeaky, lambda suite, subject: suite.test_a_backend_that_hangs_is_left(subject)),
    (Trusting, lambda suite, subject: suite.test_a_stream_that_ends_early(subject)),
    (Trusting, lambda suite, subject: suite.test_a_backend_that_hangs_in_mid_stream_is_left(subject)),
    (Vague, lambda suite, subject: suite.test_a_status_keeps_its_meaning(subject, 429)),
    (Vague, lambda suite, subject: suite.test_a_backend_that_hangs_is_left(subject)),
]


@pytest.mark.parametrize(("kind", "check"), SEEN)
async def test_a_check_fails_where_its_bug_is_planted(kind: type[VLLM], check: Any) -> None:
    async with opened(VLLM) as subject:
        await check(FailingContract(), subject)
    async with opened(kind) as subject:
        with pytest.raises((AssertionError, pytest.fail.Exception, ExceptionGroup, MeshError)):
            await check(FailingContract(), subject)
