"""Requests that a vendor's SDK writes, over a real socket: what is sent, and what is not; errors, limits, logs."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import fireworks
import httpx
import pytest
import together

from services.inference.remote.http import Endpoint
from services.inference.remote.sdk import SdkHttp
from stackmesh import errors
from tests.fakes.http_server import CUT, STALL, HttpServer, Reply, failing, streaming, whole

KEY = "sk-test-0123456789"
BODY = {"model": "m", "messages": [{"role": "user", "content": "a secret prompt"}]}
SDKS: list[tuple[Any, Callable[..., Any]]] = [(together, together.AsyncTogether), (fireworks, fireworks.AsyncFireworks)]


@pytest.fixture
async def server() -> AsyncGenerator[HttpServer]:
    async with HttpServer() as server:
        server.reply = whole({"it": "works"})
        yield server


@asynccontextmanager
async def opened(url: str, sdk: tuple[Any, Callable[..., Any]] = SDKS[0], **endpoint: Any) -> AsyncGenerator[SdkHttp]:
    settings = {"connect_timeout": 2.0, "read_timeout": 5.0, "max_connections": 16, "tls_verify": True}
    package, client = sdk

    def make(pool: httpx.AsyncClient) -> Any:
        return client(api_key="", base_url=url, max_retries=0, http_client=pool)

    async with SdkHttp(Endpoint(url, **(settings | endpoint)), package, make, "/some/v1") as transport:
        yield transport


@pytest.fixture(params=SDKS, ids=["together", "fireworks"])
async def transport(request: pytest.FixtureRequest, server: HttpServer) -> AsyncGenerator[SdkHttp]:
    async with opened(server.root, request.param) as transport:
        yield transport


# What is sent


async def test_a_request_is_the_sdks(transport: SdkHttp, server: HttpServer) -> None:
    assert await transport.post("/chat/completions", BODY, KEY) == {"it": "works"}
    sent = server.last
    assert (sent.method, sent.path, sent.body) == ("POST", "/some/v1/chat/completions", BODY)
    assert sent.headers["authorization"] == f"Bearer {KEY}"
    assert sent.headers["user-agent"].startswith(("AsyncTogether/Python", "AsyncFireworks/Python"))
    assert sent.headers["x-stainless-lang"] == "python"
    assert sent.headers["content-type"] == "application/json"
    assert sent.headers["accept-encoding"] == "identity"  # compression would hold tokens back


async def test_without_a_key_none_is_sent(transport: SdkHttp, server: HttpServer) -> None:
    await transport.get("/models", None)
    assert (server.last.method, server.last.path) == ("GET", "/some/v1/models")
    assert "authorization" not in server.last.headers
    await transport.post("/x", BODY, None)
    assert "authorization" not in server.last.headers


async def test_each_request_has_its_own_key(transport: SdkHttp, server: HttpServer) -> None:
    keys = [f"key-{n}" for n in range(50)]
    await asyncio.gather(*(transport.post("/x", {"key": key}, key) for key in keys))
    assert {(received.body["key"], received.headers["authorization"]) for received in server.requests} == {
        (key, f"Bearer {key}") for key in keys
    }


async def test_nothing_of_the_environment_is_used(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TOGETHER", "FIREWORKS"):
        monkeypatch.setenv(f"{name}_API_KEY", "of-the-environment")
        monkeypatch.setenv(f"{name}_BASE_URL", "http://elsewhere.invalid")
        monkeypatch.setenv(
            f"{name}_CUSTOM_HEADERS", "Authorization: Bearer of-the-environment\nX-Key: of-the-environment"
        )
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://of-the-environment.invalid:1")
    for sdk in SDKS:
        async with opened(server.root, sdk) as transport:
            await transport.get("/models", None)
            await transport.post("/x", BODY, KEY)
    assert "of-the-environment" not in repr([received.headers for received in server.requests])


async def test_the_check_notices_headers_of_the_environment(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOGETHER_CUSTOM_HEADERS", "X-Key: of-the-environment")
    async with together.AsyncTogether(api_key="k", base_url=server.root) as client:
        await client.get("/x", cast_to=object)
    assert server.last.headers["x-key"] == "of-the-environment"


async def test_no_cookie_ties_callers_together(transport: SdkHttp, server: HttpServer) -> None:
    server.reply = Reply([b"{}"], headers={"Set-Cookie": "who=alice"})
    for _ in range(2):
        await transport.post("/x", BODY, KEY)
    assert "cookie" not in server.last.headers


# What comes back


async def test_a_stream_is_read_as_it_comes(transport: SdkHttp, server: HttpServer) -> None:
    gate = asyncio.Event()
    server.reply = streaming(b"data: 1\n\n", gate, b"data: 2\n\n")
    async with asyncio.timeout(5), transport.stream("/x", BODY, KEY) as reader:
        assert await reader.readany() == b"data: 1\n\n"
        gate.set()
        assert await reader.readany() == b"data: 2\n\n"
        assert await reader.readany() == b""
    server.reply = whole({"it": "works"})
    await transport.post("/x", BODY, KEY)
    assert server.connections == 1  # its connection was used again


async def test_an_answer_that_is_compressed_all_the_same_is_read(transport: SdkHttp, server: HttpServer) -> None:
    packed = gzip.compress(json.dumps({"it": "works"}).encode())
    server.reply = Reply([packed], headers={"Content-Encoding": "gzip"})
    assert await transport.post("/x", BODY, KEY) == {"it": "works"}


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, errors.BackendRejected),
        (401, errors.BackendUnauthenticated),
        (402, errors.BackendPermissionDenied),
        (403, errors.BackendPermissionDenied),
        (408, errors.Timeout),
        (409, errors.BackendRejected),
        (429, errors.RateLimited),
        (500, errors.Internal),
        (503, errors.BackendUnreachable),
    ],
)
async def test_a_refusal_is_asked_for_once(
    transport: SdkHttp, server: HttpServer, status: int, expected: type[errors.MeshError]
) -> None:
    """The SDK would try 408, 409, 429 and 5xx again, after the time of Retry-After."""
    server.reply = failing(status, {"error": {"message": f"because of {KEY}"}}, {"Retry-After": "7"})
    with pytest.raises(expected, match=rf"answered {status}: because of \[redacted\]$") as caught:
        await transport.post("/x", BODY, KEY)
    assert len(server.requests) == 1
    if isinstance(caught.value, errors.RateLimited):
        assert caught.value.retry_after == 7
    with pytest.raises(expected):
        async with transport.stream("/x", BODY, KEY):
            pass
    server.reply = whole({"it": "works"})
    assert await transport.post("/x", BODY, KEY) == {"it": "works"}


async def test_a_refusal_without_an_end_is_not_read_to_it(transport: SdkHttp, server: HttpServer) -> None:
    server.reply = Reply([b"x" * 200_000, STALL], 500, {"Content-Type": "text/plain"}, streamed=True)
    async with asyncio.timeout(3):
        with pytest.raises(errors.Internal):
            await transport.post("/x", BODY, KEY)


async def test_a_redirection_is_not_followed_with_the_key(transport: SdkHttp, server: HttpServer) -> None:
    server.reply = failing(307, b"", {"Location": "http://elsewhere.invalid/v1"})
    with pytest.raises(errors.BackendUnreachable, match="set url to where"):
        await transport.post("/x", BODY, KEY)


async def test_silence_is_a_timeout_and_of_a_list_unreachable(server: HttpServer) -> None:
    server.reply = Reply([STALL])
    async with opened(server.root, read_timeout=0.1) as transport:
        with pytest.raises(errors.Timeout, match=r"was silent for 0\.1 s"):
            await transport.post("/x", BODY, KEY)
        with pytest.raises(errors.BackendUnreachable, match=r"was silent for 0\.1 s"):
            await transport.get("/models", KEY)


async def test_nobody_there_is_gone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for sdk in SDKS:
        async with opened(f"http://127.0.0.1:{port}", sdk) as transport:
            with pytest.raises(errors.BackendUnreachable) as caught:
                await transport.get("/models", KEY)
            assert caught.value.message == f"127.0.0.1:{port} cannot be reached: connection refused"
            assert caught.value.gone


async def test_a_name_nobody_knows() -> None:
    async with opened("http://no-such-host.invalid") as transport:
        with pytest.raises(errors.BackendUnreachable, match="its name is not known") as caught:
            await transport.post("/x", BODY, KEY)
        assert not caught.value.gone


async def test_a_connection_the_server_closed_in_silence_is_replaced(transport: SdkHttp, server: HttpServer) -> None:
    server.close_after_answer = True
    for _ in range(5):
        await transport.post("/x", BODY, KEY)
    assert len(server.requests) == 5


async def test_a_new_connection_that_is_cut_is_not_tried_again(transport: SdkHttp, server: HttpServer) -> None:
    server.reply = Reply([CUT])
    with pytest.raises(errors.BackendUnreachable, match="closed the connection"):
        await transport.post("/x", BODY, KEY)
    assert len(server.requests) == 1


async def test_leaving_closes_the_connection(transport: SdkHttp, server: HttpServer) -> None:
    server.reply = Reply([STALL])
    task = asyncio.create_task(transport.post("/x", BODY, KEY))
    async with asyncio.timeout(5):
        await server.arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    server.reply = streaming(b"data: 1\n\n", STALL)
    with suppress(KeyError):
        async with transport.stream("/x", BODY, KEY) as reader:
            await reader.readany()
            raise KeyError
    async with asyncio.timeout(0.4):
        for received in server.requests:
            await received.disconnected.wait()


async def test_more_calls_than_connections_wait_then_are_refused(server: HttpServer) -> None:
    server.reply = streaming(b"data: 1\n\n", STALL)
    async with opened(server.root, max_connections=1, connect_timeout=0.1) as transport:
        async with transport.stream("/x", BODY, KEY):
            with pytest.raises(errors.QueueFull):
                await transport.post("/x", BODY, KEY)


# Logs


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO])
async def test_a_request_leaves_nothing_in_the_log(
    server: HttpServer, caplog: pytest.LogCaptureFixture, level: int
) -> None:
    caplog.set_level(level)
    for sdk in SDKS:
        caplog.set_level(level, logger=sdk[0].__name__)  # as TOGETHER_LOG and FIREWORKS_LOG would
        async with opened(server.root, sdk) as transport:
            server.reply = whole({"it": "works"})
            await transport.post("/x", BODY, KEY)
            server.reply = failing(500, {})
            with pytest.raises(errors.Internal):
                await transport.post("/x", BODY, KEY)
    said = "\n".join(record.getMessage() for record in caplog.records if not record.name.startswith("asyncio"))
    assert (KEY in said, "a secret prompt" in said, "HTTP Request" in said) == (False, False, False)


async def test_the_check_notices_what_the_sdk_logs(server: HttpServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="fireworks")
    async with opened(server.root, SDKS[1]) as transport:
        caplog.set_level(logging.DEBUG, logger="fireworks")
        await transport.post("/x", BODY, KEY)
    assert KEY in caplog.text
    assert "a secret prompt" in caplog.text
