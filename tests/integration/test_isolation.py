"""A caller's credential is used for that caller's calls, and is seen nowhere else.

Three callers with keys of their own and one without call one model 200 times at once, while its backend refuses, hangs
up and is slow, and while they retry and give up. The backend keeps who says what with which key.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.inference.providers import KINDS
from services.inference.providers.vllm import VLLM
from services.inference.server import INFERENCE
from stackmesh.client import Client, user
from stackmesh.errors import MeshError, Unauthenticated
from stackmesh.service import Service
from tests.fakes.backend import Backend
from tests.fakes.bedrock_server import without_credentials
from tests.fakes.http_server import CUT, Received, Reply
from tests.fakes.mesh import mesh_config, running_mesh
from tests.fakes.vendors import VENDORS, Vendor, vendor

CALLS = 200
CALLERS = ("alice", "bob", "carol")
NOBODY = "nobody"
CANARY = "canary"


Told = list[tuple[str, MeshError | None]]
"""What each caller was told; None: the answer."""


def key_of(name: str) -> str:
    return f"sk-{CANARY}-{name}-0123456789"


class Moody:
    """Answers a fake's requests: most well, some not."""

    def __init__(self, backend: Backend, credential: Callable[[Received], str]) -> None:
        self._backend = backend
        self._credential = credential
        self._chance = random.Random(4)  # noqa: S311 -- no secret

    def __call__(self, request: Received) -> Reply:
        if not self._credential(request):
            return self._backend.refusal(401)
        match self._chance.randrange(8):
            case 0:
                return self._backend.refusal(429, "0")
            case 1:
                return self._backend.refusal(503)
            case 2:
                return replace(self._backend.speak(request), pieces=[0.01, CUT])
            case 3:
                reply = self._backend.speak(request)
                return replace(reply, pieces=[0.05, *reply.pieces])
            case _:
                return self._backend.speak(request)


@asynccontextmanager
async def meshed(folder: Path, vendor: Vendor, inference: Service) -> AsyncGenerator[tuple[Any, str]]:
    async with vendor.server() as backend:
        backend.reply = Moody(backend, vendor.credential)
        for name in CALLERS:
            vendor.admit(backend, key_of(name))
        provider = {
            "provider_id": "p",
            "provider_type": vendor.provider_type,
            "config": dict(vendor.config(backend.root)),
        }
        model = {"model_id": "m", "provider_id": "p", "provider_model_id": vendor.model}
        config = mesh_config(folder, [provider], [model])
        async with running_mesh(config, serving=["m"], inference=inference):
            yield backend, config.gateway.address


async def call(client: Client, name: str, number: int, told: Told) -> None:
    """One call of a caller who retries, streams every other time, and now and then gives up."""
    message = [user(f"say I am {name}, call {number}.")]
    for _ in range(6):
        try:
            async with asyncio.timeout(0.03 if number % 7 == 0 else 30):
                if number % 2:
                    async for _chunk in await client.inference.stream_chat_completion(model_id="m", messages=message):
                        pass
                else:
                    await client.inference.chat_completion(model_id="m", messages=message)
        except TimeoutError:
            return
        except MeshError as error:
            told.append((name, error))
            if isinstance(error, Unauthenticated):
                return
        else:
            told.append((name, None))
            return


async def check_isolated(folder: Path, vendor: Vendor, inference: Service = INFERENCE) -> Told:
    """What the callers were told. Also run against a planted bug."""
    told: Told = []
    async with meshed(folder, vendor, inference) as (backend, address):
        data = {name: vendor.provider_data(key_of(name)) for name in CALLERS} | {NOBODY: {}}
        async with AsyncExitStack() as stack:
            callers = [
                (name, await stack.enter_async_context(Client(address, provider_data=theirs)))
                for name, theirs in data.items()
            ]
            async with asyncio.TaskGroup() as group:
                for number in range(CALLS):
                    name, client = callers[number % len(callers)]
                    group.create_task(call(client, name, number, told))
        seen = {(name, vendor.credential(request)) for request in backend.requests for name in _says(request)}
    wrong = seen - {(name, key_of(name)) for name in CALLERS} - {(NOBODY, "")}
    assert not wrong, "requests came with another's key"
    assert {name for name, key in seen if key} == set(CALLERS)
    for name, said in told:
        assert (name == NOBODY) == isinstance(said, Unauthenticated)
    return told


def _says(request: Received) -> list[str]:
    said = str(request.body)
    return [name for name in (*CALLERS, NOBODY) if f"I am {name}," in said]


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_credentials(monkeypatch, tmp_path)


@pytest.mark.parametrize("vendor", VENDORS, ids=lambda vendor: vendor.provider_type)
async def test_no_call_uses_another_caller_s_key(tmp_path: Path, vendor: Vendor, caplog) -> None:
    caplog.set_level("DEBUG")
    told = await check_isolated(tmp_path, vendor)
    assert {name for name, said in told if said is None} == set(CALLERS)
    assert CANARY not in "".join(f"{error!r} {error} {error.metadata}" for _, error in told if error is not None)
    assert CANARY not in caplog.text
    assert not [path for path in files(tmp_path) if CANARY.encode() in path.read_bytes()]


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


class Careless(VLLM):
    """The planted bug: the key of the call is the provider's, as it is with a thread-local on one event loop."""

    def key(self) -> str | None:
        return self._key

    async def chat_completion(self, request: Any) -> Any:
        self._key = super().key()
        await asyncio.sleep(0.02)
        return await super().chat_completion(request)

    async def stream_chat_completion(self, request: Any) -> Any:
        self._key = super().key()
        await asyncio.sleep(0.02)
        return await super().stream_chat_completion(request)

    async def list_served(self) -> Any:
        self._key = None
        return await super().list_served()


async def test_the_check_sees_a_key_that_is_everybody_s(tmp_path: Path) -> None:
    inference = replace(INFERENCE, kinds={**KINDS, "remote::careless": f"{__name__}:Careless"})
    with pytest.raises(AssertionError, match="another's key"):
        await check_isolated(tmp_path, replace(vendor("remote::vllm"), provider_type="remote::careless"), inference)
