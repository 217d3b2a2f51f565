"""The stores a registry can be kept in, by the scheme of `registry.store`.

    sqlite:///relative/path, sqlite:////absolute/path    a file, for one registry process
    etcd://HOST:PORT/PREFIX                              a cluster, for several; etcd/url.py has the whole of it

Nothing else opens a store by its URL.
"""

from __future__ import annotations

from registry_service.etcd import url as etcd_url
from registry_service.etcd.store import EtcdStore
from registry_service.sqlite.path import path_of
from registry_service.sqlite.store import SqliteStore
from registry_service.store import Store


def open_store(url: str) -> Store:
    """The store at a URL, still closed. Raises StartError for what is none."""
    if url.startswith(etcd_url.SCHEME):
        return EtcdStore(etcd_url.parse(url))
    return SqliteStore(path_of(url))


def check(url: str) -> None:
    """Raises StartError if there can be no store at a URL, without going there."""
    if url.startswith(etcd_url.SCHEME):
        etcd_url.parse(url).pem()
    else:
        path_of(url)
