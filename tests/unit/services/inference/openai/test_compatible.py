"""The provider over a real socket: streams, cancellation, back-pressure, errors, what is served."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, aclosing, asynccontextmanager, suppress
from typing import Any

import pytest

from services.inference import tables, texts
from services.inference.openai import request as body
from services.inference.openai.compatible import OpenAICompatible
from services.inference.remote.http import Endpoint, Http
from stackmesh import errors
from stackmesh.common.v1 import content_pb2
from stackmesh.hosted import HostedProvider
from stackmesh.inference.v1 import inference_service_pb2 as pb
from stackmesh.providers import Wanted
from stackmesh.routes import Api
from tests.fakes.http_server import CUT, HANG_UP, STALL, Reply, failing, streaming, whole
from tests.fakes.openai_model import DONE, data, event
from tests.fakes.openai_server import END, FINISH, HELLO, USAGE, WORDS, OpenAIServer

CHAT = pb.ChatCompletionRequest(
    model_id="fake-model",
    messages=[content_pb2.Message(user=content_pb2.UserMessage(content=texts.content(HELLO)))],
)
TEXT = pb.CompletionRequest(
    model_id="fake-model", content=texts.content(HELLO), sampling_params=pb.SamplingParams(max_tokens=len(WORDS))
)
USED = pb.Usage(prompt_tokens=USAGE["prompt_tokens"], completion_tokens=USAGE["completion_tokens"])
CANCEL_LIMIT = 0.4

Type = pb.ChatCompletionEventType
Reason = content_pb2.StopReason


class Provider(OpenAICompatible):
    """The shared client with a key of its own."""

    def __init__(self, url: str, **endpoint: Any) -> None:
        settings = {"connect_timeout": 2.0, "read_timeout": 5.0, "max_connections": 16, "tls_verify": True}
        super().__init__(
            Http(Endpoint(url, **(settings | endpoint))),
            body.Dialect(None, lambda grammar: {"grammar": grammar}),
            tables.llama_by_name(),
        )

    def key(self) -> str | None:
        return "sk-test-0123456789"


@pytest.fixture
async def server() -> AsyncGenerator[OpenAIServer]:
    async with OpenAIServer() as server:
        yield server


@pytest.fixture
async def provider(server: OpenAIServer) -> AsyncGenerator[Provider]:
    async with Provider(server.url) as provider:
        yield provider


async def told(provider: OpenAICompatible) -> list[pb.ChatCompletionEvent]:
    async with asyncio.timeout(10), aclosing(await provider.stream_chat_completion(CHAT)) as chunks:
        return [chunk.event async for chunk in chunks]


def text_of(told: list[pb.ChatCompletionEvent]) -> str:
    return "".join(event.text for event in told)


# What is said


async def test_a_chat_is_start_progress_complete(provider: Provider, server: OpenAIServer) -> None:
    start, *progress, complete = await told(provider)
    assert start == pb.ChatCompletionEvent(event_type=Type.CHAT_COMPLETION_EVENT_TYPE_START)
    assert {event.event_type for event in progress} == {Type.CHAT_COMPLETION_EVENT_TYPE_PROGRESS}
    assert text_of(progress) == "".join(WORDS)
    assert complete.event_type == Type.CHAT_COMPLETION_EVENT_TYPE_COMPLETE
    assert (complete.stop_reason, complete.usage) == (Reason.STOP_REASON_END_OF_TURN, USED)
    assert server.last.body["stream_options"] == {"include_usage": True}


async def test_a_whole_chat(provider: Provider) -> None:
    answer = await provider.chat_completion(CHAT)
    assert texts.plain(answer.completion_message.content) == "".join(WORDS)
    assert answer.completion_message.stop_reason == Reason.STOP_REASON_END_OF_TURN
    assert answer.usage == USED


async def test_completions(provider: Provider) -> None:
    answer = await provider.completion(TEXT)
    assert (answer.content, answer.stop_reason) == ("".join(WORDS), Reason.STOP_REASON_OUT_OF_TOKENS)
    async with aclosing(await provider.stream_completion(TEXT)) as stream:
        *chunks, last = [chunk async for chunk in stream]
    assert "".join(chunk.delta for chunk in chunks) == "".join(WORDS)
    assert (last.delta, last.stop_reason, last.usage) == ("", Reason.STOP_REASON_OUT_OF_TOKENS, USED)
    assert answer.usage == USED


async def test_embeddings_come_in_order(provider: Provider, server: OpenAIServer) -> None:
    contents = [texts.content("a"), texts.content("four")]
    answer = await provider.embeddings(pb.EmbeddingsRequest(model_id="fake-model", contents=contents))
    for embedding, text in zip(answer.embeddings, ("a", "four"), strict=True):
        assert list(embedding.values) == pytest.approx(server.model.embed(text), abs=1e-6)
    assert answer.usage == pb.Usage(prompt_tokens=6)


async def test_a_token_is_sent_as_it_comes(provider: Provider, server: OpenAIServer) -> None:
    gates = [asyncio.Event() for _ in WORDS]
    pieces = [piece for gate, word in zip(gates, WORDS, strict=True) for piece in (event({"content": word}), gate)]
    server.reply = streaming(*pieces, END)
    async with asyncio.timeout(10), aclosing(await provider.stream_chat_completion(CHAT)) as chunks:
        assert (await anext(chunks)).event.event_type == Type.CHAT_COMPLETION_EVENT_TYPE_START
        for gate, word in zip(gates, WORDS, strict=True):
            assert (await anext(chunks)).event.text == word  # the server says no more until it has been seen
            gate.set()
        assert (await anext(chunks)).event.usage == USED


async def test_what_comes_in_one_segment_is_one_chunk(provider: Provider, server: OpenAIServer) -> None:
    server.reply = streaming(b"".join(event({"content": str(n)}) for n in range(50)) + END)
    _, progress, _ = await told(provider)
    assert progress.text == "".join(str(n) for n in range(50))


async def test_events_and_characters_may_be_cut_anywhere(provider: Provider, server: OpenAIServer) -> None:
    said = "naïve 🚀🎉 日本語"
    stream = b": ping\n\n" + event({"content": said}) + END
    server.reply = streaming(*(stream[i : i + 1] for i in range(len(stream))))
    events = await told(provider)
    assert text_of(events) == said
    assert events[-1].usage == USED


# What goes wrong


async def test_the_await_raises_what_is_wrong_before_the_first_token(provider: Provider, server: OpenAIServer) -> None:
    server.reply = failing(429, {"error": {"message": "slow down"}}, {"Retry-After": "7"})
    with pytest.raises(errors.RateLimited, match=f"{server.host} answered 429: slow down") as caught:
        await provider.stream_chat_completion(CHAT)
    assert caught.value.retry_after == 7.0
    with pytest.raises(errors.RateLimited):
        await provider.chat_completion(CHAT)


async def test_a_first_event_that_is_an_error_is_raised_by_the_await(provider: Provider, server: OpenAIServer) -> None:
    server.reply = streaming(data({"error": {"message": "too hot", "code": 503}}), DONE)
    with pytest.raises(errors.BackendUnreachable, match="503: too hot"):
        await provider.stream_chat_completion(CHAT)


async def test_an_error_in_mid_stream_follows_what_was_said(provider: Provider, server: OpenAIServer) -> None:
    failure = data({"error": {"message": "out of memory with sk-test-0123456789"}})
    server.reply = streaming(event({"content": "half "}) + event({"content": "an answer"}) + failure + DONE)
    chunks = await provider.stream_chat_completion(CHAT)
    said = [(await anext(chunks)).event.text for _ in range(2)]
    with pytest.raises(errors.Internal, match=r"500: out of memory with \[redacted\]$"):
        await anext(chunks)
    assert "".join(said) == "half an answer"


@pytest.mark.parametrize(
    "pieces",
    [
        [event({"content": "half an ans"}), CUT],
        [event({"content": "half an ans"}), HANG_UP],
        [event({"content": "half an ans"})],
        [event({"content": "half an ans"}), DONE],
        [event({"content": "half an ans"}), event({"content": "wer"}, finish_reason="abort"), DONE],
        [],
    ],
)
async def test_a_stream_that_ends_early_is_never_complete(
    provider: Provider, server: OpenAIServer, pieces: list[Any]
) -> None:
    server.reply = streaming(*pieces)
    with pytest.raises(errors.BackendUnreachable, match=server.host):
        await told(provider)


async def test_a_server_that_says_no_done_may_still_have_finished(provider: Provider, server: OpenAIServer) -> None:
    server.reply = streaming(event({"content": "all"}), FINISH)
    *_, complete = await told(provider)
    assert complete.stop_reason == Reason.STOP_REASON_END_OF_TURN
    assert complete.usage == pb.Usage(completion_tokens=1)


@pytest.mark.parametrize("pieces", [[STALL], [event({"content": "half"}), STALL]])
async def test_silence_is_a_timeout(server: OpenAIServer, pieces: list[Any]) -> None:
    server.reply = streaming(*pieces)
    async with Provider(server.url, read_timeout=0.1) as provider:
        with pytest.raises(errors.Timeout, match=f"{server.host} was silent for 0.1 s"):
            await told(provider)
        async with asyncio.timeout(5):
            await server.last.disconnected.wait()


async def test_nobody_there_names_the_host_and_nothing_else() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with Provider(f"http://127.0.0.1:{port}/secret/v1") as provider:
        for call in (provider.chat_completion(CHAT), provider.stream_chat_completion(CHAT), provider.list_served()):
            with pytest.raises(errors.BackendUnreachable) as caught:
                await call
            assert caught.value.message == f"127.0.0.1:{port} cannot be reached: connection refused"


async def test_a_connection_that_is_never_accepted_is_given_up() -> None:
    with socket.socket() as listener, ExitStack() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):  # fill the queue: the kernel answers no more
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        port = listener.getsockname()[1]
        async with Provider(f"http://127.0.0.1:{port}", connect_timeout=0.1) as provider:
            for call in (provider.chat_completion(CHAT), provider.list_served()):
                with pytest.raises(errors.BackendUnreachable) as caught:
                    await call
                assert caught.value.message == f"127.0.0.1:{port} did not accept a connection within 0.1 s"


async def test_a_name_nobody_knows() -> None:
    async with Provider("http://no-such-host.invalid/v1") as provider:
        with pytest.raises(errors.BackendUnreachable, match=r"^no-such-host\.invalid:80 cannot be reached"):
            await provider.list_served()


async def test_something_that_does_not_speak_http() -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(babble, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        async with Provider(f"http://127.0.0.1:{port}") as provider:
            with pytest.raises(errors.BackendUnreachable, match=f"127.0.0.1:{port}"):
                await provider.chat_completion(CHAT)
        async with Provider(f"https://127.0.0.1:{port}") as provider:
            with pytest.raises(errors.BackendUnreachable, match="offers no TLS that can be trusted"):
                await provider.chat_completion(CHAT)


async def test_a_redirection_is_not_followed_with_the_key(provider: Provider, server: OpenAIServer) -> None:
    server.reply = failing(307, b"", {"Location": "http://elsewhere.invalid/v1"})
    with pytest.raises(errors.BackendUnreachable, match="set url to where"):
        await provider.chat_completion(CHAT)


@pytest.mark.parametrize("reply", [whole("text"), whole({"choices": []}), Reply([b"<html>"])])
async def test_an_answer_that_makes_no_sense_is_internal(
    provider: Provider, server: OpenAIServer, reply: Reply
) -> None:
    server.reply = reply
    with pytest.raises(errors.Internal, match=server.host):
        await provider.chat_completion(CHAT)


async def test_events_of_another_form_are_internal(provider: Provider, server: OpenAIServer) -> None:
    server.reply = streaming(data({"choices": [{"no": "delta"}]}), END)
    with pytest.raises(errors.Internal, match=server.host):
        await provider.stream_chat_completion(CHAT)


# Cancellation. The check says how long the server went on after the client had gone.

Act = Callable[[OpenAICompatible, OpenAIServer], Awaitable[None]]


async def cancelled_before_headers(provider: OpenAICompatible, server: OpenAIServer) -> None:
    server.reply = streaming(STALL)
    await cancel_when_asked(asyncio.create_task(provider.stream_chat_completion(CHAT)), server)


async def cancelled_before_the_answer(provider: OpenAICompatible, server: OpenAIServer) -> None:
    server.reply = streaming(STALL)
    await cancel_when_asked(asyncio.create_task(provider.chat_completion(CHAT)), server)


async def cancelled_before_the_first_event(provider: OpenAICompatible, server: OpenAIServer) -> None:
    server.reply = streaming(b": wait\n\n", STALL)
    await cancel_when_asked(asyncio.create_task(provider.stream_chat_completion(CHAT)), server)


async def cancelled_in_mid_stream(provider: OpenAICompatible, server: OpenAIServer) -> None:
    server.reply = streaming(event({"content": "half"}), STALL)
    chunks = await provider.stream_chat_completion(CHAT)
    await anext(chunks)
    await anext(chunks)
    await cancel_when_asked(asyncio.create_task(anext(chunks)), server)  # pyright: ignore[reportArgumentType] -- a coroutine in truth


async def closed_in_mid_stream(provider: OpenAICompatible, server: OpenAIServer) -> None:
    server.reply = streaming(event({"content": "half"}), STALL)
    chunks = await provider.stream_chat_completion(CHAT)
    await anext(chunks)
    await chunks.aclose()


async def closed_unread(provider: OpenAICompatible, server: OpenAIServer) -> None:
    server.reply = streaming(event({"content": "half"}), STALL)
    await (await provider.stream_chat_completion(CHAT)).aclose()


async def cancel_when_asked(task: asyncio.Task[Any], server: OpenAIServer) -> None:
    async with asyncio.timeout(5):
        await server.arrived.wait()
    await asyncio.sleep(0.02)  # it waits in earnest
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


ACTS = [
    cancelled_before_headers,
    cancelled_before_the_answer,
    cancelled_before_the_first_event,
    cancelled_in_mid_stream,
    closed_in_mid_stream,
    closed_unread,
]


async def check_stops(act: Act, provider: OpenAICompatible, server: OpenAIServer) -> None:
    await act(provider, server)
    async with asyncio.timeout(CANCEL_LIMIT):
        await server.last.disconnected.wait()


@pytest.mark.parametrize("act", ACTS)
async def test_leaving_closes_the_connection(act: Act, provider: Provider, server: OpenAIServer) -> None:
    await check_stops(act, provider, server)


class Detached(Http):
    """The bug: the request lives in a task of its own, which nobody cancels."""

    tasks: list[asyncio.Task[None]]

    @asynccontextmanager
    async def _answer(self, *request: Any, **options: Any) -> AsyncGenerator[Any]:
        opened = asyncio.get_running_loop().create_future()

        async def hold() -> None:
            async with Http._answer(self, *request, **options) as response:
                opened.set_result(response)
                await asyncio.Event().wait()

        self.tasks = [asyncio.create_task(hold())]
        yield await opened


@pytest.mark.parametrize("act", ACTS)
async def test_the_check_notices_a_connection_that_stays(act: Act, server: OpenAIServer) -> None:
    provider = Provider(server.url)
    detached = provider._transport = Detached(provider._transport.endpoint)
    async with provider:
        with pytest.raises(TimeoutError):
            await check_stops(act, provider, server)
        for task in detached.tasks:
            task.cancel()
        await asyncio.wait(detached.tasks)


# Back-pressure. The server offers 48 MB; the check says that it cannot get rid of more than sockets and buffers hold.

FLOOD = event({"content": "x" * 4000}) * 250


async def check_bounded(provider: OpenAICompatible, server: OpenAIServer) -> None:
    server.reply = streaming(*[FLOOD] * 48, END)
    async with aclosing(await provider.stream_chat_completion(CHAT)) as chunks:
        await anext(chunks)
        async with asyncio.timeout(10):
            await server.last.blocked.wait()
        for _ in range(100):
            await asyncio.sleep(0.005)  # an eager reader would use it
        assert server.last.sent < 24_000_000


async def test_a_slow_consumer_costs_bounded_memory(provider: Provider, server: OpenAIServer) -> None:
    await check_bounded(provider, server)


class Eager(Provider):
    """The bug: whatever comes is read at once and kept."""

    async def stream_chat_completion(
        self, request: pb.ChatCompletionRequest
    ) -> AsyncGenerator[pb.StreamChatCompletionResponse]:
        chunks = await super().stream_chat_completion(request)
        kept: asyncio.Queue[Any] = asyncio.Queue()

        async def read() -> None:
            async for chunk in chunks:
                kept.put_nowait(chunk)

        async def replay() -> AsyncGenerator[pb.StreamChatCompletionResponse]:
            reading = asyncio.create_task(read())
            try:
                while True:
                    yield await kept.get()
            finally:
                reading.cancel()
                await asyncio.wait([reading])
                await chunks.aclose()

        return replay()


async def test_the_check_notices_an_eager_reader(server: OpenAIServer) -> None:
    async with Eager(server.url) as provider:
        with pytest.raises(AssertionError):
            await check_bounded(provider, server)


# Connections


async def test_a_connection_is_used_again(provider: Provider, server: OpenAIServer) -> None:
    for _ in range(3):
        await told(provider)
        await provider.chat_completion(CHAT)
    assert server.connections == 1


async def test_a_connection_the_server_closed_in_silence_is_replaced(provider: Provider, server: OpenAIServer) -> None:
    server.close_after_answer = True
    for _ in range(5):
        await told(provider)
    assert len(server.requests) == 5


async def test_a_new_connection_that_is_cut_is_not_tried_again(provider: Provider, server: OpenAIServer) -> None:
    server.reply = Reply([CUT])
    with pytest.raises(errors.BackendUnreachable):
        await provider.chat_completion(CHAT)
    assert len(server.requests) == 1


async def test_more_calls_than_connections_wait_then_are_refused(server: OpenAIServer) -> None:
    server.reply = streaming(event({"content": "a"}), STALL)
    async with Provider(server.url, max_connections=2, connect_timeout=0.1) as provider:
        streams = [await provider.stream_chat_completion(CHAT) for _ in range(2)]
        with pytest.raises(errors.QueueFull, match=f"all 2 connections to {server.host} are busy") as caught:
            await provider.stream_chat_completion(CHAT)
        assert caught.value.retry_after == 1.0
        assert await provider.list_served() == ["fake-model"]  # the list of models never waits for them
        await streams.pop().aclose()
        streams.append(await provider.stream_chat_completion(CHAT))
        for stream in streams:
            await stream.aclose()


async def test_more_than_aiohttps_hundred_streams_at_once(server: OpenAIServer) -> None:
    server.reply = streaming(event({"content": "a"}), STALL)
    async with asyncio.timeout(20), Provider(server.url, max_connections=150) as provider:
        streams = await asyncio.gather(*(provider.stream_chat_completion(CHAT) for _ in range(150)))
        assert server.connections == 150
        await asyncio.gather(*(stream.aclose() for stream in streams))


async def test_no_cookie_ties_callers_together(provider: Provider, server: OpenAIServer) -> None:
    server.listing = Reply([b'{"data": []}'], headers={"Set-Cookie": "who=alice"})
    await provider.list_served()
    await provider.chat_completion(CHAT)
    assert "cookie" not in server.last.headers


async def test_the_key_goes_into_the_header_alone(provider: Provider, server: OpenAIServer) -> None:
    await provider.chat_completion(CHAT)
    assert server.last.headers["authorization"] == "Bearer sk-test-0123456789"
    assert "sk-test" not in json.dumps(server.last.body) + server.last.path


# What is served


async def test_served_names_are_the_servers(provider: Provider, server: OpenAIServer) -> None:
    server.models = ["meta-llama/Llama-3.1-8B", "b"]
    assert await provider.list_served() == ["meta-llama/Llama-3.1-8B", "b"]
    assert await provider.resolve(Wanted(provider_resource_id="b")) == "b"
    assert await provider.resolve(Wanted(provider_resource_id="Llama3.1-8B")) == "meta-llama/Llama-3.1-8B"
    assert len(server.received("/v1/models")) == 1  # one listing answers them all
    with pytest.raises(errors.NotHosted, match=f"{server.host} does not serve 'c'.*meta-llama/Llama-3.1-8B"):
        await provider.resolve(Wanted(provider_resource_id="c"))


async def test_a_model_that_was_pulled_since_the_last_listing_is_found(
    provider: Provider, server: OpenAIServer
) -> None:
    server.models = ["a"]
    await provider.list_served()
    server.models = ["a", "pulled"]
    assert await provider.resolve(Wanted(provider_resource_id="pulled")) == "pulled"


async def test_many_who_ask_for_what_is_not_there_share_a_listing(provider: Provider, server: OpenAIServer) -> None:
    wanted = Wanted(provider_resource_id="nowhere")
    answers = await asyncio.gather(*(provider.resolve(wanted) for _ in range(50)), return_exceptions=True)
    assert {type(answer) for answer in answers} == {errors.NotHosted}
    assert len(server.received("/v1/models")) <= 2


async def test_names_that_cannot_be_registered_are_left_out(provider: Provider, server: OpenAIServer) -> None:
    server.models = ["/data/models/llama", "good", "a b", "x" * 300]
    assert await provider.list_served() == ["good"]


@pytest.mark.parametrize("reply", [whole([]), whole({"data": [{"no": "id"}]}), whole({"data": None})])
async def test_a_listing_of_another_form_is_internal(provider: Provider, server: OpenAIServer, reply: Reply) -> None:
    server.listing = reply
    with pytest.raises(errors.Internal):
        await provider.list_served()


async def asked_anew(provider: Provider, hosted: HostedProvider) -> tuple[Sequence[str], str]:
    """What counts as served, and the problem, once the server was asked again: for a name that may be new."""
    with suppress(errors.MeshError):
        await provider.resolve(Wanted(provider_resource_id="nowhere"))
    await hosted.refresh()
    assert hosted.last is not None
    return hosted.last.provider_resource_ids, hosted.last.problem


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (failing(429, {}), "answered 429"),
        (failing(500, {}), "answered 500"),
        (failing(502, b"<html>"), "answered 502"),
        (failing(503, {}), "answered 503"),
        (streaming(CUT), "closed the connection"),
        (streaming(STALL), "was silent"),
    ],
)
async def test_one_listing_that_fails_takes_no_model_away(server: OpenAIServer, reply: Reply, problem: str) -> None:
    async with Provider(server.url, read_timeout=0.2) as provider:
        hosted = HostedProvider(Api.API_INFERENCE, "p", "remote::any", provider)
        assert await asked_anew(provider, hosted) == (["fake-model"], "")
        server.listing = reply
        served, said = await asked_anew(provider, hosted)
        assert (list(served), problem in said) == (["fake-model"], True)


@pytest.mark.parametrize(
    ("status", "problem"),
    [(401, "answered 401"), (403, "answered 403"), (None, "cannot be reached: connection refused")],
)
async def test_a_server_that_knows_us_not_or_is_gone_serves_nothing_at_once(status: int | None, problem: str) -> None:
    async with AsyncExitStack() as stopping:
        server = await stopping.enter_async_context(OpenAIServer())
        async with Provider(server.url) as provider:
            hosted = HostedProvider(Api.API_INFERENCE, "p", "remote::any", provider)
            assert await asked_anew(provider, hosted) == (["fake-model"], "")
            if status is None:
                await stopping.aclose()
            else:
                server.listing = failing(status, {})
            assert await asked_anew(provider, hosted) == ([], f"{server.host} {problem}")


async def test_a_listing_that_failed_is_not_asked_for_again_at_once(server: OpenAIServer) -> None:
    server.listing = streaming(STALL)
    async with asyncio.timeout(5), Provider(server.url, read_timeout=0.2) as provider:
        answers = await asyncio.gather(
            *(provider.resolve(Wanted(provider_resource_id="a")) for _ in range(50)), return_exceptions=True
        )
    assert {type(answer) for answer in answers} == {errors.BackendUnreachable}
    assert len(server.requests) == 1


async def test_a_server_that_is_no_such_api_says_what_to_check(provider: Provider, server: OpenAIServer) -> None:
    server.listing = failing(404, {"detail": "Not Found"})
    with pytest.raises(errors.Unsupported, match="its url is wrong"):
        await provider.list_served()


async def test_a_server_without_a_list_in_time_is_unreachable(server: OpenAIServer) -> None:
    server.listing = streaming(STALL)
    async with Provider(server.url, read_timeout=0.1) as provider:
        with pytest.raises(errors.BackendUnreachable, match=r"was silent for 0\.1 s"):
            await provider.list_served()
