"""What every inference provider makes of a backend that fails, and that the next call is fine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from services.inference import texts
from stackmesh.errors import (
    BackendPermissionDenied,
    BackendRejected,
    BackendUnauthenticated,
    BackendUnreachable,
    Internal,
    MeshError,
    NotServing,
    RateLimited,
    ResourceExhausted,
    Timeout,
)
from tests.contracts.inference_provider.stopping import PATIENCE, stopped
from tests.contracts.inference_provider.subject import Subject
from tests.contracts.inference_provider.taught import TaughtContract
from tests.fakes.http_server import CUT, HANG_UP, STALL, Piece, Reply, failing

LINE = 10_000_000
"""Characters of a line that no backend should send."""

STATUSES = {
    400: BackendRejected,
    401: BackendUnauthenticated,
    403: BackendPermissionDenied,
    404: NotServing,
    429: RateLimited,
    500: Internal,
    503: BackendUnreachable,
}

Call = Callable[[Subject], Awaitable[object]]
CALLS: list[Call] = [
    lambda subject: subject.provider.chat_completion(subject.chat()),
    lambda subject: subject.provider.stream_chat_completion(subject.chat()),
    lambda subject: subject.provider.completion(subject.completion()),
    lambda subject: subject.provider.stream_completion(subject.completion()),
]


async def is_fine(subject: Subject) -> None:
    """All its places are free, and answer."""
    subject.fake.reply = subject.fake.speak
    await stopped(subject, PATIENCE)
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        calls = [
            group.create_task(subject.provider.chat_completion(subject.chat("say well"))) for _ in range(subject.places)
        ]
    assert {texts.plain(call.result().completion_message.content) for call in calls} == {"well"}


async def read(subject: Subject) -> tuple[str, MeshError | None]:
    """The text of a chat stream, and what ended it."""
    said = ""
    try:
        async for chunk in await subject.provider.stream_chat_completion(subject.chat()):
            said += chunk.event.text
    except MeshError as error:
        return said, error
    return said, None


class FailingContract(TaughtContract):
    """For a provider over a fake, whose read timeout is a few seconds."""

    @pytest.mark.parametrize("status", STATUSES)
    async def test_a_status_keeps_its_meaning(self, subject: Subject, status: int) -> None:
        subject.fake.reply = subject.fake.refusal(status, "7" if status in (429, 503) else None)
        for call in CALLS:
            with pytest.raises(STATUSES[status]) as caught:
                await call(subject)
            assert type(caught.value) is STATUSES[status]
            if isinstance(caught.value, ResourceExhausted):
                assert caught.value.retry_after == 7
        await is_fine(subject)

    @pytest.mark.parametrize("status", [500, 502, 503])
    async def test_a_proxy_s_page_says_nothing(self, subject: Subject, status: int) -> None:
        page = b"<html><body>secret-host-7 is down</body></html>"
        subject.fake.reply = failing(status, page, {"Content-Type": "text/html"})
        for call in CALLS:
            with pytest.raises((Internal, BackendUnreachable)) as caught:
                await call(subject)
            assert "secret-host-7" not in str(caught.value)
        await is_fine(subject)

    async def test_a_backend_that_hangs_is_left(self, subject: Subject) -> None:
        subject.fake.reply = Reply([STALL])
        results = await asyncio.gather(*(call(subject) for call in CALLS), return_exceptions=True)
        assert [type(result) for result in results] == [Timeout] * len(CALLS)
        await is_fine(subject)

    async def test_a_backend_that_hangs_in_mid_stream_is_left(self, subject: Subject) -> None:
        subject.fake.reply = self._stream(subject, subject.fake.said("Hel"), STALL)
        said, error = await read(subject)
        assert (said, type(error)) == ("Hel", Timeout)
        await is_fine(subject)

    @pytest.mark.parametrize("end", [CUT, HANG_UP])
    async def test_a_backend_that_dies_in_mid_stream(self, subject: Subject, end: Piece) -> None:
        subject.fake.reply = self._stream(subject, subject.fake.said("Hel"), 0.2, end)
        said, error = await read(subject)
        assert (said, type(error)) == ("Hel", BackendUnreachable)
        await is_fine(subject)

    async def test_a_stream_that_ends_early(self, subject: Subject) -> None:
        subject.fake.reply = self._stream(subject, subject.fake.said("Hel"))
        said, error = await read(subject)
        assert (said, type(error)) == ("Hel", BackendUnreachable)
        await is_fine(subject)

    @pytest.mark.parametrize("end", [CUT, HANG_UP])
    async def test_a_backend_that_dies_before_it_answers(self, subject: Subject, end: Piece) -> None:
        subject.fake.reply = Reply([end])
        for call in CALLS:
            with pytest.raises(BackendUnreachable):
                await call(subject)
        await is_fine(subject)

    async def test_garbage_in_a_stream(self, subject: Subject) -> None:
        subject.fake.reply = self._stream(subject, subject.fake.said("Hel"), 0.2, subject.fake.broken())
        said, error = await read(subject)
        assert said == "Hel"
        assert isinstance(error, Internal | BackendUnreachable)
        subject.fake.reply = self._stream(subject, subject.fake.broken())
        with pytest.raises((Internal, BackendUnreachable)):
            await subject.provider.stream_chat_completion(subject.chat())
        await is_fine(subject)

    async def test_garbage_for_an_answer(self, subject: Subject) -> None:
        for body in (b"garbage", b"[]", b"{}", b'{"a": 1}', b"\xff\xfe", b"null"):
            subject.fake.reply = failing(200, body, {"Content-Type": "application/json"})
            with pytest.raises((Internal, BackendUnreachable)):
                await subject.provider.chat_completion(subject.chat())
            with pytest.raises((Internal, BackendUnreachable)):
                await subject.provider.completion(subject.completion())
        await is_fine(subject)

    async def test_a_line_of_ten_megabytes(self, subject: Subject) -> None:
        subject.fake.reply = self._stream(subject, subject.fake.said("x" * LINE))
        said, error = await read(subject)
        assert len(said) == LINE or not said
        assert isinstance(error, BackendUnreachable if said else MeshError)
        await is_fine(subject)

    def _stream(self, subject: Subject, *pieces: Piece) -> Reply:
        return Reply(pieces, streamed=True, headers={"Content-Type": subject.fake.stream_type})
