"""Credentials are told apart without being kept."""

import pytest
from pydantic import BaseModel, ValidationError

from services.inference.remote.keys import Key, OwnKey, mark, secret
from services.inference.remote.listing import Listing
from stackmesh.errors import BackendUnauthenticated


class Sent(BaseModel):
    key: Key | None = None
    own: OwnKey = None


def test_an_empty_configured_key_is_none_and_a_caller_s_empty_one_is_wrong():
    assert Sent(own="").own is None
    with pytest.raises(ValidationError):
        Sent(key="")


@pytest.mark.parametrize("key", ["two words", "line\n", "é", "\x7f"])
def test_a_key_has_to_fit_into_a_header(key):
    with pytest.raises(ValidationError):
        Sent(key=key)


def test_the_first_key_counts():
    sent = Sent(key="theirs", own="ours")
    assert secret(sent.key, sent.own) == "theirs"
    assert secret(None, sent.own) == "ours"
    assert secret(None) is None


def test_marks_tell_keys_apart_and_do_not_hold_them():
    assert mark("a") == mark("a") != mark("b")
    assert mark(None) != mark("")
    assert b"canary" not in mark("canary")


async def test_a_list_is_one_caller_s_and_keeps_no_key():
    asked = []

    async def ask(key):
        asked.append(key)
        if key is None:
            raise BackendUnauthenticated("a key is wanted")
        return [f"model-of-{len(asked)}"]

    listing = Listing(ask, None, "somewhere")
    assert await listing.names("canary-a") == await listing.names("canary-a") == ["model-of-1"]
    assert await listing.names("canary-b") == ["model-of-2"]
    with pytest.raises(BackendUnauthenticated):
        await listing.names(None)
    assert "canary" not in repr(vars(listing))
