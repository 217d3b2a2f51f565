"""Calls of boto3's in threads: left at once wherever they are, back-pressure, full queues, connections kept."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import ssl
import struct
import termios
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import trustme
from botocore.config import Config

from services.inference.bedrock import connections
from services.inference.bedrock.connections import Watch, watch
from services.inference.bedrock.threads import Threads
from stackmesh.errors import QueueFull, ShuttingDown
from tests.fakes.bedrock_models import CLAUDE
from tests.fakes.bedrock_server import OWN, BedrockServer
from tests.fakes.http_server import STALL, Reply
from tests.waiting import until

LIMIT = 2.0
"""Seconds within which a call that was left is over: its read timeout is 30."""
PATIENCE = 20.0
PROFILE = f"us.{CLAUDE}"
[(KEY_ID, OWNER)] = OWN.items()
HELLO = [{"role": "user", "content": [{"text": "say Hello there!"}]}]


@pytest.fixture
async def server() -> AsyncGenerator[BedrockServer]:
    async with BedrockServer() as server:
        yield server


@pytest.fixture
async def threads() -> AsyncGenerator[Threads]:
    async with Threads(4, 0.2, "test") as threads:
        yield threads


def client(url: str, *, watched: bool = True, ca: str | None = None, **options: Any) -> Any:
    usual = {"connect_timeout": 30, "read_timeout": 30, "retries": {"total_max_attempts": 1}, "signature_version": "v4"}
    made = botocore.session.Session().create_client(
        "bedrock-runtime",
        region_name="us-east-1",
        endpoint_url=url,
        verify=ca,
        aws_access_key_id=KEY_ID,
        aws_secret_access_key=OWNER.secret,
        config=Config(**usual | options),
    )
    if watched:
        watch(made)
    return made


def converse(api: Any, text: str = "say Hello there!") -> Callable[[Watch], Any]:
    messages = [{"role": "user", "content": [{"text": text}]}]
    return lambda _: api.converse(modelId=PROFILE, messages=messages)


def stream(api: Any) -> Callable[[Watch], Any]:
    return lambda _: api.converse_stream(modelId=PROFILE, messages=HELLO)


def idle(threads: Threads) -> bool:
    return not threads._running


async def left(threads: Threads, calling: asyncio.Task[Any]) -> None:
    """Cancel the call; its thread is free again soon."""
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    await until(lambda: idle(threads), LIMIT)


def unread(connection: socket.socket) -> int:
    """Bytes that have come and were not read."""
    return struct.unpack("i", fcntl.ioctl(connection, termios.FIONREAD, bytes(4)))[0]


def deaf(until_there_are: int) -> Callable[[socket.socket], None]:
    """Reads nothing; goes on when so many bytes are there."""

    def talk(connection: socket.socket) -> None:
        while unread(connection) < until_there_are:
            threading.Event().wait(0.002)

    return talk


@asynccontextmanager
async def listening(talk: Callable[[socket.socket], None]) -> AsyncGenerator[tuple[str, asyncio.Event]]:
    """A server that accepts one client and does what `talk` says, in a thread; then the event is set."""
    loop = asyncio.get_running_loop()
    done, over = asyncio.Event(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    talk(connection)
                    loop.call_soon_threadsafe(done.set)
                    over.wait()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}", done
        finally:
            over.set()
            listener.shutdown(socket.SHUT_RDWR)
    await asyncio.to_thread(thread.join, PATIENCE)
    assert not thread.is_alive()


# Left, wherever they are


async def test_a_call_is_left_while_it_waits_for_the_first_byte(server: BedrockServer, threads: Threads) -> None:
    server.reply = Reply([STALL])
    calling = asyncio.ensure_future(threads.run(converse(client(server.root)), "h"))
    await until(lambda: server.requests, PATIENCE)
    await left(threads, calling)
    async with asyncio.timeout(LIMIT):
        await server.last.disconnected.wait()


async def test_a_call_is_left_in_the_middle_of_its_answer(server: BedrockServer, threads: Threads) -> None:
    server.reply = Reply([b'{"output": ', STALL], streamed=True, headers={"Content-Type": "application/json"})
    calling = asyncio.ensure_future(threads.run(converse(client(server.root)), "h"))
    await until(lambda: server.requests and server.last.sent > 11, PATIENCE)
    await left(threads, calling)
    async with asyncio.timeout(LIMIT):
        await server.last.disconnected.wait()


async def test_a_call_is_left_while_its_request_is_not_read(threads: Threads) -> None:
    async with listening(deaf(60_000)) as (address, full):
        calling = asyncio.ensure_future(threads.run(converse(client(f"http://{address}"), "x" * 20_000_000), "h"))
        async with asyncio.timeout(PATIENCE):
            await full.wait()
        await left(threads, calling)


async def test_a_call_is_left_during_the_handshake_of_tls(threads: Threads) -> None:
    async with listening(deaf(1)) as (address, greeted):
        calling = asyncio.ensure_future(threads.run(converse(client(f"https://{address}")), "h"))
        async with asyncio.timeout(PATIENCE):
            await greeted.wait()
        await left(threads, calling)


async def test_a_call_over_tls_is_left(threads: Threads, tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    secured: list[ssl.SSLSocket] = []

    def talk(connection: socket.socket) -> None:
        secured.append(context.wrap_socket(connection, server_side=True))
        secured[0].recv(100)

    async with listening(talk) as (address, asked):
        api = client(f"https://{address}", ca=str(tmp_path / "ca.pem"))
        calling = asyncio.ensure_future(threads.run(converse(api), "h"))
        async with asyncio.timeout(PATIENCE):
            await asked.wait()
        await left(threads, calling)
        secured[0].close()


async def test_a_call_is_left_before_it_connects(server: BedrockServer, threads: Threads) -> None:
    """As when a name takes long to be looked up: then nothing is sent."""
    begun, go = threading.Event(), threading.Event()
    api = client(server.root)

    def slow(watch: Watch) -> Any:
        begun.set()
        go.wait()
        return converse(api)(watch)

    calling = asyncio.ensure_future(threads.run(slow, "h"))
    await asyncio.to_thread(begun.wait)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    go.set()
    await until(lambda: idle(threads), LIMIT)
    assert server.requests == []


async def test_a_stream_is_left_while_it_stalls(server: BedrockServer, threads: Threads) -> None:
    server.reply = Reply([server.said("Hel"), STALL], streamed=True, headers={"Content-Type": server.stream_type})
    opened = threads.stream(stream(client(server.root)), "h")
    pipe = await opened.__aenter__()
    assert b"Hel" in await pipe.readany()
    assert await opened.__aexit__(GeneratorExit, GeneratorExit(), None) is not True
    await until(lambda: idle(threads), LIMIT)
    async with asyncio.timeout(LIMIT):
        await server.last.disconnected.wait()


async def test_a_stream_is_left_while_nobody_reads_it(server: BedrockServer, threads: Threads) -> None:
    """Its thread then waits for room, not for the socket."""
    endless = [server.said("x" * 1000)] * 20_000
    server.reply = Reply(endless, streamed=True, headers={"Content-Type": server.stream_type})
    opened = threads.stream(stream(client(server.root)), "h")
    pipe = await opened.__aenter__()
    await until(lambda: server.requests and server.last.blocked.is_set(), PATIENCE)
    assert pipe._put < 200_000
    await opened.__aexit__(GeneratorExit, GeneratorExit(), None)
    await until(lambda: idle(threads), LIMIT)


async def test_without_a_watch_the_thread_goes_on(server: BedrockServer, threads: Threads) -> None:
    """The bug that the tests above hunt: nobody knows the connection."""
    server.reply = Reply([STALL])
    api = client(server.root, watched=False, read_timeout=1.5)
    calling = asyncio.ensure_future(threads.run(converse(api), "h"))
    await until(lambda: server.requests, PATIENCE)
    calling.cancel()
    with pytest.raises(TimeoutError):
        await until(lambda: idle(threads), 0.5)
    assert not server.last.disconnected.is_set()
    await until(lambda: idle(threads), PATIENCE)


# Whose connection it is


async def test_a_connection_that_went_back_is_nobody_s(server: BedrockServer, threads: Threads) -> None:
    api = client(server.root)
    watches: list[Watch] = []

    def asked(watch: Watch) -> Any:
        watches.append(watch)
        return converse(api)(watch)

    await threads.run(asked, "h")
    await threads.run(asked, "h")
    assert server.connections == 1
    server.reply = Reply([0.3, *server.speak(server.last).pieces], headers={"Content-Type": "application/json"})
    calling = asyncio.ensure_future(threads.run(asked, "h"))
    await until(lambda: len(server.requests) == 3, PATIENCE)
    for old in watches[:2]:
        old.leave()  # too late: it is another's by now
    assert (await calling)["stopReason"] == "end_turn"
    assert server.connections == 1


async def test_a_late_leave_would_hit_another_s_call(
    server: BedrockServer, threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bug that the test above hunts: a connection is not let go when it goes back to its pool."""
    monkeypatch.setattr(connections._Watched, "let_go", lambda _: None)
    release = Watch.release
    monkeypatch.setattr(Watch, "release", lambda _: None)
    api = client(server.root)
    watches: list[Watch] = []

    def asked(watch: Watch) -> Any:
        watches.append(watch)
        return converse(api)(watch)

    await threads.run(asked, "h")
    server.reply = Reply([STALL])
    calling = asyncio.ensure_future(threads.run(asked, "h"))
    await until(lambda: len(server.requests) == 2, PATIENCE)
    watches[0].leave()
    with pytest.raises(Exception, match="Connection was closed"):
        await calling
    for old in watches:
        release(old)


async def test_a_stream_that_was_read_to_its_end_gives_its_connection_back(
    server: BedrockServer, threads: Threads
) -> None:
    api = client(server.root)
    for _ in range(3):
        async with threads.stream(stream(api), "h") as pipe:
            while await pipe.readany():
                pass
    assert server.connections == 1


async def test_calls_left_at_any_moment_disturb_no_other(server: BedrockServer) -> None:
    """Some are left while others, on the same pool, are not."""
    server.model.token_seconds = 0.002
    async with Threads(8, PATIENCE, "test") as threads:
        api = client(server.root, max_pool_connections=8)

        async def one(n: int) -> str | None:
            calling = asyncio.ensure_future(threads.run(converse(api, f"say number {n}"), "h"))
            if n % 2:
                await asyncio.sleep(0.0007 * (n % 40))
                calling.cancel()
                with suppress(asyncio.CancelledError):
                    await calling
                return None
            return (await calling)["output"]["message"]["content"][0]["text"]

        async with asyncio.timeout(PATIENCE):
            said = await asyncio.gather(*(one(n) for n in range(160)))
        assert said == [f"number {n}" if n % 2 == 0 else None for n in range(160)]
        await until(lambda: idle(threads), LIMIT)


# Places


async def test_a_call_waits_for_a_place_and_not_for_ever(server: BedrockServer, threads: Threads) -> None:
    server.reply = Reply([STALL])
    api = client(server.root)
    calls = [asyncio.ensure_future(threads.run(converse(api), "h")) for _ in range(4)]
    await until(lambda: len(server.requests) == 4, PATIENCE)
    with pytest.raises(QueueFull, match="all 4 connections to h are busy") as caught:
        await threads.run(converse(api), "h")
    assert caught.value.retry_after == 1
    for call in calls:
        await left(threads, call) if call is calls[-1] else call.cancel()
    server.reply = server.speak
    assert await threads.run(converse(api), "h")


async def test_closing_leaves_the_calls_that_run(server: BedrockServer) -> None:
    server.reply = Reply([STALL])
    async with asyncio.timeout(PATIENCE):
        async with Threads(4, 0.2, "test") as threads:
            calling = asyncio.ensure_future(threads.run(converse(client(server.root)), "h"))
            await until(lambda: server.requests, PATIENCE)
        with pytest.raises(Exception, match="Connection was closed"):
            await calling
        with pytest.raises(ShuttingDown):
            await threads.run(lambda _: None, "h")


async def test_closing_lets_a_thread_go_that_waits_for_a_reader(server: BedrockServer) -> None:
    endless = [server.said("x" * 1000)] * 20_000
    server.reply = Reply(endless, streamed=True, headers={"Content-Type": server.stream_type})
    async with asyncio.timeout(PATIENCE), Threads(4, 0.2, "test") as threads:

        async def hold() -> AsyncGenerator[None]:
            async with threads.stream(stream(client(server.root)), "h"):
                yield

        async with aclosing(hold()) as held:
            await anext(held)
            await until(lambda: server.requests and server.last.blocked.is_set(), PATIENCE)
            await threads.__aexit__()
            assert idle(threads)


async def test_all_threads_are_there_before_the_first_call(threads: Threads) -> None:
    """The event loop would wait for each that it starts."""
    before = threading.active_count()
    await threads.run(lambda _: None, "h")
    assert len(threads._executor._threads) == 4
    assert threading.active_count() == before


async def test_threads_that_cannot_be_started_do_not_hold_those_that_could(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    left = 3

    def few(self: threading.Thread) -> None:
        nonlocal left
        if self.name.startswith("few"):
            left -= 1
            if left < 0:
                raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", few)
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(RuntimeError, match="can't start new thread"):
            await Threads(5, 0.2, "few").__aenter__()
    await until(lambda: not [each for each in threading.enumerate() if each.name.startswith("few")], PATIENCE)


async def test_few_prepare_their_requests_at_a_time_and_all_wait_for_the_network(threads: Threads) -> None:
    preparing, waiting, most, answered = 0, 0, 0, threading.Event()

    def work(watch: Watch) -> None:
        nonlocal preparing, waiting, most
        preparing += 1
        most = max(most, preparing)
        threading.Event().wait(0.01)  # long enough for all to be here, if they may
        preparing -= 1
        watch.prepared()
        waiting += 1
        answered.wait(PATIENCE)

    calls = [asyncio.ensure_future(threads.run(work, "h")) for _ in range(4)]
    await until(lambda: waiting == 4, PATIENCE)
    assert most == 2
    answered.set()
    await asyncio.gather(*calls)


async def test_who_prepares_for_long_does_not_keep_others_from_it_for_ever(threads: Threads) -> None:
    """Somebody's credentials may have to be asked for; others' are there."""
    go = threading.Event()
    stuck = [asyncio.ensure_future(threads.run(lambda _: go.wait(PATIENCE), "h")) for _ in range(2)]
    async with asyncio.timeout(PATIENCE):
        assert await threads.run(lambda _: "done", "h") == "done"
    assert not any(call.done() for call in stuck)
    go.set()
    await asyncio.gather(*stuck)


async def test_what_a_call_raises_is_raised_here(threads: Threads) -> None:
    def fail(_: Watch) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await threads.run(fail, "h")
    async with threads.stream(fail, "h") as pipe:
        with pytest.raises(ZeroDivisionError):
            await pipe.readany()
    await until(lambda: idle(threads), PATIENCE)
