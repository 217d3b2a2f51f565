"""The address of a store in etcd, and that it never shows what is secret."""

import pytest

from registry_service import stores
from registry_service.etcd.store import EtcdStore
from registry_service.etcd.url import Location, parse
from registry_service.sqlite.store import SqliteStore
from stackmesh.process import StartError


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("etcd://h", Location(("h:2379",), "stackmesh")),
        ("etcd://h:1/", Location(("h:1",), "stackmesh")),
        ("etcd://h1:1,[::1]:2,10.0.0.1/a/b", Location(("h1:1", "[::1]:2", "10.0.0.1:2379"), "a/b")),
        ("etcd://me:p%40%2F%3Fw@h/m", Location(("h:2379",), "m", "me", "p@/?w")),
        ("etcd://me:p@w:x@h/m", Location(("h:2379",), "m", "me", "p@w:x")),
        ("etcd://h/m?tls=system&name=etcd.local", Location(("h:2379",), "m", tls="system", name="etcd.local")),
        ("etcd://h/m?tls=/a&cert=/b&key=/c", Location(("h:2379",), "m", tls="/a", cert="/b", key="/c")),
    ],
)
def test_what_an_address_says(url, location):
    assert parse(url) == location


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("etcd://", "HOST:PORT"),
        ("etcd://h:0", "HOST:PORT"),
        ("etcd://h:99999", "HOST:PORT"),
        ("etcd://h,,g", "HOST:PORT"),
        ("etcd://secret@h", "USER:PASSWORD"),
        ("etcd://:secret@h", "USER:PASSWORD"),
        ("etcd://me:secret?secret=secret@h", "percent-encoded"),
        ("etcd://me:s@ecret?secret=secret@h", "percent-encoded"),
        ("etcd://me:s@ecret?secret@h", "percent-encoded"),
        ("etcd://me:sec,ret/h", "HOST:PORT"),
        ("etcd://h/a b", "the prefix may hold"),
        ("etcd://h/a//b", "the prefix may hold"),
        ("etcd://h?tsl=system", "something other than tls=, cert=, key=, name="),
        ("etcd://h?secret", "something other than tls="),
        ("etcd://h?tls=", "tls= is empty"),
        ("etcd://h?tls=a&tls=b", "tls= is there twice"),
        ("etcd://h?tls=a&cert=b", "cert= and key= go together"),
        ("etcd://h?name=b", "name= needs tls="),
        ("http://h", "etcd://HOST:PORT/PREFIX"),
    ],
)
def test_other_addresses_are_refused(url, message):
    with pytest.raises(StartError, match=message) as caught:
        parse(url)
    assert "sec" not in str(caught.value)


def test_nothing_shows_the_password():
    location = parse("etcd://me:hunter2@h/m")
    for shown in (location, EtcdStore(location), EtcdStore(location)._client, EtcdStore(location)._client.token):
        assert "hunter2" not in f"{shown} {shown!r}"


def test_a_store_is_chosen_by_its_scheme(tmp_path):
    assert isinstance(stores.open_store("etcd://h/m"), EtcdStore)
    assert isinstance(stores.open_store(f"sqlite:///{tmp_path}/registry.db"), SqliteStore)
    for url in ("etcd://h?tls=/nowhere", "etcd://h/ ", "sqlite:///", "etcds://me:secret@h/m", "/me:secret@h"):
        with pytest.raises(StartError) as caught:
            stores.check(url)
        assert "secret" not in str(caught.value)
    stores.check("etcd://h/m")
    stores.check("etcd://h/m?tls=system")
