"""Clients are made off the loop, one a credential and region, bounded, and never another's."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import botocore.session
import pytest
from botocore.exceptions import NoCredentialsError

from services.inference.bedrock.clients import Clients, Settings
from services.inference.bedrock.credentials import Credential
from tests.fakes.bedrock_server import without_credentials

ALICE = Credential("AKIAALICE0000000000A", "alice-secret", None, "us-east-1")
BOB = Credential("AKIABOB000000000000B", "bob-secret", "bob-token", "us-east-1")
SERVICE = "bedrock-runtime"


def settings(limit: int = 8) -> Settings:
    options = {"connect_timeout": 1, "read_timeout": 1, "max_pool_connections": 2, "retries": {"total_max_attempts": 1}}
    return Settings(
        "us-east-1",
        endpoints={"bedrock-runtime": "https://127.0.0.1:1", "bedrock": None},
        options={"bedrock-runtime": options, "bedrock": options},
        limit=limit,
    )


class Watched(Clients):
    """Notes which thread made what."""

    def __init__(self, settings: Settings, session: Any) -> None:
        super().__init__(settings, session)
        self.made: list[tuple[str, str]] = []

    def _client(self, session: Any, service: Any, region: str, credential: Any = None, **options: Any) -> Any:
        self.made.append((threading.current_thread().name, credential.access_key_id if credential else "own"))
        return super()._client(session, service, region, credential, **options)


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    without_credentials(monkeypatch, tmp_path)


@asynccontextmanager
async def opened(limit: int = 8) -> AsyncGenerator[Watched]:
    async with Watched(settings(limit), botocore.session.Session()) as clients:
        clients.made.clear()
        yield clients


def signer(api: Any) -> tuple[str, str, str | None]:
    """Whose credentials a client signs with."""
    frozen = api._request_signer._credentials.get_frozen_credentials()
    return frozen.access_key, frozen.secret_key, frozen.token


async def test_each_has_a_client_of_his_own_which_is_kept() -> None:
    async with opened() as clients:
        for _ in range(3):
            async with clients.of(SERVICE, ALICE) as alice, clients.of(SERVICE, BOB) as bob:
                assert signer(alice) == ("AKIAALICE0000000000A", "alice-secret", None)
                assert signer(bob) == ("AKIABOB000000000000B", "bob-secret", "bob-token")
        assert clients.made == [("bedrock-callers_0", each.access_key_id) for each in (ALICE, BOB)]


@pytest.mark.parametrize(
    "other",
    [
        Credential("AKIAALICE0000000000A", "alice-secreT", None, "us-east-1"),
        Credential("AKIAALICE0000000000A", "alice-secret", "token", "us-east-1"),
        Credential("AKIAALICE0000000000A", "alice-secret", None, "us-west-2"),
        Credential("AKIAALICE0000000000", "Aalice-secret", None, "us-east-1"),
    ],
)
async def test_whatever_differs_makes_another_client(other: Credential) -> None:
    async with opened() as clients, clients.of(SERVICE, ALICE) as mine, clients.of(SERVICE, other) as theirs:
        assert mine is not theirs
        assert signer(theirs) == (other.access_key_id, other.secret_access_key, other.session_token)
        assert theirs.meta.region_name == other.region


async def test_a_hundred_who_come_at_once_wait_for_one_client() -> None:
    async with opened() as clients:

        async def use() -> Any:
            async with clients.of(SERVICE, ALICE) as api:
                return api

        found = await asyncio.gather(*(use() for _ in range(100)))
        assert len({id(api) for api in found}) == len(clients.made) == 1


async def test_who_leaves_while_it_is_made_does_not_spoil_it() -> None:
    async with opened() as clients:

        async def use() -> Any:
            async with clients.of(SERVICE, ALICE) as api:
                return api

        first, second = asyncio.ensure_future(use()), asyncio.ensure_future(use())
        await asyncio.sleep(0)
        first.cancel()
        assert signer(await second)[0] == "AKIAALICE0000000000A"
        assert len(clients.made) == 1


async def test_no_more_are_kept_than_are_allowed() -> None:
    async with opened(limit=3) as clients:
        for n in range(10):
            async with clients.of(SERVICE, Credential(f"AKIA{n}", "secret", None, "us-east-1")):
                pass
        assert len(clients._kept) == 3
        async with clients.of(SERVICE, Credential("AKIA9", "secret", None, "us-east-1")):
            assert len(clients.made) == 10
        async with clients.of(SERVICE, Credential("AKIA0", "secret", None, "us-east-1")):
            assert len(clients.made) == 11


async def test_one_that_is_in_use_is_closed_when_that_is_over() -> None:
    closed: list[str] = []
    async with opened(limit=1) as clients, AsyncExitStack() as using:
        alice = await using.enter_async_context(clients.of(SERVICE, ALICE))
        alice.close = lambda: closed.append("alice")
        async with clients.of(SERVICE, BOB) as bob:
            bob.close = lambda: closed.append("bob")
            assert closed == []
        await using.aclose()
        assert closed == ["alice"]
    assert closed == ["alice", "bob"]


async def test_a_client_that_could_not_be_made_is_not_kept() -> None:
    async with opened() as clients:
        with pytest.raises(ValueError, match="region"):
            async with clients.of(SERVICE, Credential("a", "b", None, "not a region")):
                pass
        assert not clients._kept


# The server's own


async def test_the_server_s_own_are_found_as_boto3_finds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOWN0000000000000")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "own-secret")
    async with opened() as clients, clients.of(SERVICE, None) as own:
        assert signer(own) == ("AKIAOWN0000000000000", "own-secret", None)
        assert clients.made == [("bedrock-own_0", "own")]


async def test_without_any_there_is_none_and_that_is_remembered_for_a_while() -> None:
    async with opened() as clients:
        for _ in range(3):
            with pytest.raises(NoCredentialsError):
                async with clients.of(SERVICE, None):
                    pass
        assert not clients._kept
        assert clients._no_own_until > 0


@pytest.mark.parametrize("environment", [{}, {"AWS_AUTH_SCHEME_PREFERENCE": "httpBearerAuth"}])
async def test_a_token_of_the_server_s_does_not_sign_for_a_caller(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    """botocore prefers AWS_BEARER_TOKEN_BEDROCK to the credentials that a client was given."""
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "the-server-s-token")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    async with opened() as clients:
        async with clients.of(SERVICE, ALICE) as alice, clients.of(SERVICE, None) as own:
            assert "the-server-s-token" not in await _headers(alice)
            assert "Credential=AKIAALICE0000000000A" in await _headers(alice)
            assert await _headers(own) == "Bearer the-server-s-token"


async def test_the_check_sees_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bug that it hunts: that a client's own credentials come first is not said aloud."""
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "the-server-s-token")
    session = botocore.session.Session()
    api = session.create_client(
        SERVICE, region_name="us-east-1", aws_access_key_id=ALICE.access_key_id, aws_secret_access_key="x"
    )
    assert await _headers(api) == "Bearer the-server-s-token"


async def _headers(api: Any) -> str:
    """The header Authorization of a request, which is not sent."""
    sent: list[str] = []

    def note(request: Any, **_: Any) -> None:
        sent.append(request.headers["Authorization"].decode())
        raise ZeroDivisionError

    api.meta.events.register("before-send", note)
    with pytest.raises(ZeroDivisionError):
        await asyncio.to_thread(api.converse, modelId="a.b", messages=[])
    api.meta.events.unregister("before-send", note)
    return sent[0]


# What is kept of secrets


async def test_keys_are_not_the_credentials_and_differ_from_process_to_process() -> None:
    async with opened() as first, opened() as second:
        keys = {clients._key(SERVICE, ALICE) for clients in (first, second)}
        assert len(keys) == 2
        assert all(len(key) == 32 and b"alice" not in key.lower() for key in keys)


async def test_a_client_that_was_pushed_out_is_forgotten_with_its_secret() -> None:
    async with opened(limit=1) as clients:
        async with clients.of(SERVICE, Credential("AKIAX", "never-to-be-seen-again", None, "us-east-1")):
            pass
        async with clients.of(SERVICE, ALICE):
            pass
        await asyncio.sleep(0)
        gc.collect()
        from botocore.credentials import Credentials

        kept = [each for each in gc.get_objects() if isinstance(each, Credentials)]
        assert "never-to-be-seen-again" not in {each.secret_key for each in kept}


async def test_botocore_does_not_log_what_it_signs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("botocore").setLevel(logging.DEBUG)
    async with opened() as clients, clients.of(SERVICE, BOB) as api:
        await _headers(api)
        assert "bob-token" not in caplog.text
        assert "AKIABOB" not in caplog.text
        logging.getLogger("botocore").setLevel(logging.DEBUG)  # the check sees what it would log otherwise
        await _headers(api)
        assert "bob-token" in caplog.text
