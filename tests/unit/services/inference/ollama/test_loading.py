"""Models that are loaded, pulled, lost and let go of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from services.inference import texts
from services.inference.ollama.loading import Loader
from services.inference.ollama.request import Defaults
from services.inference.providers.ollama import Ollama, OllamaConfig
from stackmesh.errors import BackendUnreachable, Internal, MeshError, NotHosted, NotServing, Timeout
from stackmesh.hosted import HostedProvider
from stackmesh.inference.v1 import inference_service_pb2 as pb
from stackmesh.providers import Wanted
from stackmesh.routes import Api
from tests.fakes.http_server import CUT, STALL, Piece, Reply
from tests.fakes.ollama_server import OllamaServer
from tests.fakes.ollama_words import line
from tests.waiting import until

RUNS, IDLE, EMBEDS = "runs:latest", "idle:1b", "all-minilm:latest"


@pytest.fixture
async def server() -> AsyncGenerator[OllamaServer]:
    async with OllamaServer(RUNS, IDLE, EMBEDS, embedders=[EMBEDS]) as server:
        server.expire(IDLE)
        server.expire(EMBEDS)
        server.library = ["new:7b"]
        yield server


@asynccontextmanager
async def opened(server: OllamaServer, **config: Any) -> AsyncGenerator[Ollama]:
    async with Ollama(OllamaConfig(url=server.url, **config)) as provider:
        yield provider


def wanted(name: str) -> Wanted:
    return Wanted(provider_resource_id=name)


def bodies(server: OllamaServer) -> Sequence[tuple[str, Any]]:
    return [(request.path, request.body) for request in server.requests if request.method == "POST"]


# What runs


async def test_what_is_served_is_what_runs(server: OllamaServer) -> None:
    for config in ({}, {"load": True}, {"pull": True}):
        async with opened(server, **config) as provider:
            assert await provider.list_served() == [RUNS]


async def test_models_of_ollamas_cloud_always_run(server: OllamaServer) -> None:
    server.cloud["gpt-oss:120b-cloud"] = "https://ollama.com:443"
    async with opened(server) as provider:
        assert await provider.list_served() == [RUNS, "gpt-oss:120b-cloud"]
        await provider.load(wanted("gpt-oss:120b-cloud"))
    assert bodies(server) == []


async def test_a_server_that_does_not_say_what_runs_runs_all_it_lists() -> None:
    """As https://ollama.com, whose models are listed by /api/tags."""

    class Cloud(OllamaServer):
        def answer(self, request: Any) -> Reply:
            if request.path == "/api/ps":
                return self.speak(request)  # 404 page not found
            return super().answer(request)

    async with Cloud("gpt-oss:120b") as server, opened(server) as provider:
        assert await provider.list_served() == ["gpt-oss:120b"]


async def test_resolve_knows_what_could_be_made_to_run(server: OllamaServer) -> None:
    for config, names in (
        ({}, {"runs"}),
        ({"load": True}, {"runs", IDLE}),
        ({"pull": True}, {"runs", IDLE, "any:7b", "Llama3.2-1B-Instruct"}),
    ):
        found: set[str] = set()
        async with opened(server, **config) as provider:
            for name in ("runs", IDLE, "any:7b", "Llama3.2-1B-Instruct", "gpt-4"):
                with suppress(NotHosted):
                    await provider.resolve(wanted(name))
                    found.add(name)
        assert found == names
    assert bodies(server) == []


# Load


async def test_without_load_nothing_is_loaded_and_the_reason_says_what_to_do(server: OllamaServer) -> None:
    async with opened(server) as provider:
        await provider.load(wanted(RUNS))
        with pytest.raises(NotServing, match=rf"does not run {IDLE}: run it there \(ollama run {IDLE}\), or set load"):
            await provider.load(wanted(IDLE))
        await provider.unload(RUNS)
        await provider.unload(IDLE)
    assert bodies(server) == []


async def test_what_does_not_run_is_loaded_and_served_at_once(server: OllamaServer) -> None:
    async with opened(server, load=True) as provider:
        assert await provider.list_served() == [RUNS]
        for _ in range(2):
            await provider.load(wanted(IDLE))
            assert await provider.list_served() == [RUNS, IDLE]
    assert bodies(server) == [("/api/generate", {"model": IDLE, "stream": False, "keep_alive": -1})]


async def test_it_is_loaded_as_it_will_be_used(server: OllamaServer) -> None:
    async with opened(server, load=True, keep_alive="5m", num_ctx=4096) as provider:
        await provider.load(wanted(IDLE))
    [(_, body)] = bodies(server)
    assert (body["keep_alive"], body["options"]) == ("5m", {"num_ctx": 4096})
    assert server.running[IDLE] == "5m"


async def test_a_model_that_only_embeds_is_loaded_by_embedding_nothing(server: OllamaServer) -> None:
    async with opened(server, load=True) as provider:
        await provider.load(wanted(EMBEDS))
        assert EMBEDS in await provider.list_served()
    assert bodies(server)[-1] == ("/api/embed", {"model": EMBEDS, "input": [], "keep_alive": -1})


async def test_what_is_not_pulled_says_so(server: OllamaServer) -> None:
    async with opened(server, load=True) as provider:
        with pytest.raises(NotServing, match=r"has not pulled new:7b: pull it there \(ollama pull new:7b\), or"):
            await provider.load(wanted("new:7b"))
    assert [path for path, _ in bodies(server)] == ["/api/generate"]


async def test_a_model_takes_longer_to_load_than_a_call_may_be_silent(server: OllamaServer) -> None:
    server.load_seconds = 1.0
    async with opened(server, load=True, read_timeout=0.5) as provider:
        await provider.load(wanted(IDLE))
        assert IDLE in await provider.list_served()


async def test_loading_has_a_bound_of_its_own(server: OllamaServer) -> None:
    server.reply = Reply([STALL])
    async with opened(server, load=True, load_timeout=0.1) as provider:
        with pytest.raises(Timeout, match=r"was silent for 0\.1 s"):
            await provider.load(wanted(IDLE))


async def test_loading_takes_no_connection_of_the_calls(server: OllamaServer) -> None:
    async with opened(server, load=True, max_connections=1) as provider:
        server.reply = Reply([STALL])
        loading = asyncio.create_task(provider.load(wanted(IDLE)))
        await until(lambda: server.received("/api/generate"))
        server.reply = server.speak
        request = pb.CompletionRequest(model_id=RUNS, content=texts.content("say well"))
        assert (await provider.completion(request)).content == "well"
        loading.cancel()
        await asyncio.wait([loading])


async def test_the_servers_own_key_is_sent(server: OllamaServer) -> None:
    server.key = "sk-0123456789"
    async with opened(server, pull=True, api_key=server.key) as provider:
        await provider.load(wanted("new:7b"))
        await provider.unload("new:7b")
    assert {request.headers["authorization"] for request in server.requests} == {"Bearer sk-0123456789"}


async def test_what_has_expired_is_not_served_until_it_is_loaded_again(server: OllamaServer) -> None:
    async with opened(server, load=True, keep_alive="1s") as provider:
        hosted = HostedProvider(Api.API_INFERENCE, "o", "remote::ollama", provider)
        await provider.load(wanted(IDLE))
        await hosted.refresh()
        assert hosted.serves(IDLE)
        server.expire(IDLE)

        async def lost() -> bool:
            await hosted.refresh()
            return not hosted.serves(IDLE)

        await until(lost)

        async def loaded() -> bool:
            try:
                await provider.load(wanted(IDLE))
            except NotServing:
                return False
            await hosted.refresh()
            return hosted.serves(IDLE)

        await until(loaded)


# Unload


async def test_only_what_was_loaded_is_unloaded(server: OllamaServer) -> None:
    async with opened(server, load=True) as provider:
        await provider.load(wanted(RUNS))
        await provider.load(wanted(IDLE))
        for name in (RUNS, IDLE, EMBEDS, IDLE):
            await provider.unload(name)
        assert await provider.list_served() == [RUNS]
    assert bodies(server)[1:] == [("/api/generate", {"model": IDLE, "stream": False, "keep_alive": 0})]


async def test_what_was_being_loaded_is_let_go_of(server: OllamaServer) -> None:
    server.load_seconds = 30.0
    async with opened(server, load=True) as provider:
        loading = asyncio.create_task(provider.load(wanted(IDLE)))
        await until(lambda: IDLE in server.running)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        await until(lambda: server.working == 0)
        await provider.unload(IDLE)
        assert IDLE not in server.running


async def test_what_could_not_be_unloaded_can_be_tried_again(server: OllamaServer) -> None:
    async with opened(server, load=True) as provider:
        await provider.load(wanted(IDLE))
        server.reply = server.refusal(500)
        with pytest.raises(Internal):
            await provider.unload(IDLE)
        server.reply = server.speak
        await provider.unload(IDLE)
        assert IDLE not in server.running


async def test_what_was_deleted_meanwhile_is_let_go_of(server: OllamaServer) -> None:
    async with opened(server, load=True) as provider:
        await provider.load(wanted(IDLE))
        server.expire(IDLE)
        server.pulled.remove(IDLE)
        await provider.unload(IDLE)
        count = len(server.requests)
        await provider.unload(IDLE)
        assert len(server.requests) == count


# Pull


async def test_what_is_missing_is_pulled_then_loaded(server: OllamaServer) -> None:
    digest = {"digest": "sha256:7f4030", "total": 9}
    server.progress = [line({"status": "pulling 7f4030", **digest, "completed": n}) for n in range(9)]
    async with opened(server, pull=True) as provider:
        await provider.load(wanted("new:7b"))
        assert "new:7b" in await provider.list_served()
        await provider.unload("new:7b")
    paths = [path for path, _ in bodies(server)]
    assert paths == ["/api/generate", "/api/pull", "/api/generate", "/api/generate"]
    assert bodies(server)[1][1] == {"model": "new:7b", "stream": True}
    assert "new:7b" in server.pulled


async def test_what_is_there_is_not_pulled(server: OllamaServer) -> None:
    async with opened(server, pull=True) as provider:
        await provider.load(wanted(IDLE))
    assert [path for path, _ in bodies(server)] == ["/api/generate"]


async def test_what_cannot_be_pulled_says_why(server: OllamaServer) -> None:
    async with opened(server, pull=True) as provider:
        with pytest.raises(
            NotServing, match=r"^no-such:1b cannot be pulled: .* pull model manifest: file does not exist"
        ):
            await provider.load(wanted("no-such:1b"))


def progress(*counts: int, seconds: float = 0.06) -> list[Piece]:
    """One line each, so far apart."""
    lines = [line({"status": "pulling 7f4030", "total": 9, "completed": n}) for n in counts]
    return [piece for each in lines for piece in (each, seconds)]


@pytest.mark.parametrize(
    ("said", "patience", "error", "text"),
    [
        ([*progress(1, 2, 3), STALL], 0.25, Timeout, "(was silent|got no further with new:7b) for 0.25 s"),
        ([*progress(*[3] * 40), STALL], 0.25, Timeout, "got no further with new:7b for 0.25 s"),
        ([line({"status": "pulling manifest"})], 10, BackendUnreachable, "ended the pull of new:7b early"),
        ([b"<html>\n"], 10, Internal, "not JSON"),
        ([line({"status": "pulling manifest"}), CUT], 10, BackendUnreachable, "closed the connection"),
    ],
)
async def test_a_pull_that_gets_nowhere_is_given_up(
    server: OllamaServer, said: Sequence[Piece], patience: float, error: type[MeshError], text: str
) -> None:
    async with opened(server, pull=True, load_timeout=patience) as provider:
        server.reply = lambda request: server.lines(*said) if request.path == "/api/pull" else server.speak(request)
        with pytest.raises(error, match=text):
            await provider.load(wanted("new:7b"))
        await until(lambda: server.working == 0)


async def test_a_pull_may_take_long_while_it_gets_on(server: OllamaServer) -> None:
    server.progress = progress(*range(12), seconds=0.2)
    async with opened(server, pull=True, load_timeout=2.0) as provider:
        await provider.load(wanted("new:7b"))
        assert "new:7b" in server.running


async def test_a_pull_that_is_not_wanted_any_more_is_left(server: OllamaServer) -> None:
    server.reply = lambda r: server.lines(*progress(1), STALL) if r.path == "/api/pull" else server.speak(r)
    async with opened(server, pull=True) as provider:
        loading = asyncio.create_task(provider.load(wanted("new:7b")))
        await until(lambda: server.received("/api/pull"))
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        await until(lambda: server.working == 0)
        await provider.unload("new:7b")


# Two that do not fit together


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def loads_in(minutes: int, server: OllamaServer, keep_alive: str | int | None = None) -> int:
    """How often models are loaded, each of two again when the other has driven it out; it is looked at every 5 s."""
    server.room, clock = 1, Clock()
    async with opened(server, load=True) as provider:
        kept = Defaults(None, None, keep_alive)
        loader = Loader(provider._patient, provider._models, kept, 5.0, pulls=False, clock=clock)
        for _ in range(12 * minutes):
            for name in (RUNS, IDLE):
                provider._models.forget()
                with suppress(NotServing):
                    await loader.load(name, None)
            clock.now += 5
    return len(bodies(server))


async def test_two_that_do_not_fit_together_are_not_loaded_in_turn_without_end(server: OllamaServer) -> None:
    assert await loads_in(1, server) == 2
    assert 5 <= await loads_in(5, server) <= 12


async def test_the_check_notices_models_that_are_loaded_in_turn(server: OllamaServer) -> None:
    """What it would be if whatever is lost was loaded at once: here, a second is soon."""
    assert await loads_in(1, server, keep_alive="1s") > 20


async def test_who_is_driven_out_says_so(server: OllamaServer) -> None:
    server.room = 1
    async with opened(server, load=True) as provider:
        await provider.load(wanted(IDLE))
        await provider.load(wanted(RUNS))
        with pytest.raises(NotServing, match=rf"has unloaded {IDLE} soon after .* do not fit into memory together"):
            await provider.load(wanted(IDLE))
