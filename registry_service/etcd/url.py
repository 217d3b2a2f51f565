"""The address of a store in etcd.

    etcd://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]...][/PREFIX][?tls=...&cert=...&key=...&name=...]

User and password are percent-decoded. All keys of the store begin with `PREFIX/`, so several meshes share one etcd; no
mesh's prefix may lie below another's.

    tls=system    TLS, with the authorities this machine trusts; tls=/ca.pem: with those in a file. Absent: none
    cert=, key=   files with the certificate and key this client shows
    name=         the name the members' certificates bear, if it is not the host's
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote

from registry_service.etcd import tls
from stackmesh.process import StartError

SCHEME: Final = "etcd://"
PORT: Final = 2379
PREFIX: Final = "stackmesh"
"""Where there is none in the URL."""

_QUERY: Final = ("tls", "cert", "key", "name")
_ENDPOINT: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_PREFIX: Final = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")


@dataclass(frozen=True, slots=True)
class Location:
    """Where a store is and how to get in."""

    endpoints: tuple[str, ...]
    prefix: str = PREFIX
    user: str = ""
    password: str = field(default="", repr=False)
    tls: str = ""
    cert: str = ""
    key: str = ""
    name: str = ""

    def pem(self) -> tls.Pem | None:
        """What a channel is made with; None without TLS. Reads the files. Raises StartError."""
        return tls.read(self.tls, self.key, self.cert)

    def __str__(self) -> str:
        """Without what is secret."""
        return f"{SCHEME}{','.join(self.endpoints)}/{self.prefix}"


def parse(url: str) -> Location:
    """Raises StartError, which never shows the user and the password."""
    if not url.startswith(SCHEME):
        raise StartError(f"registry.store is no address of an etcd; write {SCHEME}HOST:PORT/PREFIX")
    rest, _, query = url.removeprefix(SCHEME).partition("?")
    if "@" in query:  # then it may be a part of the password, and must not be shown
        raise _wrong("a ? in the user or the password, or an @ after the ?, must be percent-encoded")
    userinfo, at, rest = rest.rpartition("@")
    hosts, _, prefix = rest.partition("/")
    user, _, password = userinfo.partition(":")
    if at and not (user and password):
        raise _wrong("before the @ must stand USER:PASSWORD, percent-encoded")
    prefix = prefix.rstrip("/") or PREFIX
    if not _PREFIX.fullmatch(prefix):
        raise _wrong("the prefix may hold letters, digits and . _ - only, in parts with / between them")
    return Location(
        endpoints=tuple(map(_endpoint, hosts.split(","))),
        prefix=prefix,
        user=unquote(user),
        password=unquote(password),
        **_options(query),
    )


def _endpoint(text: str) -> str:
    match = _ENDPOINT.fullmatch(text)
    port = int(match[2] or PORT) if match else 0
    if match is None or not 0 < port < 65536:
        raise _wrong(
            "after etcd:// must stand HOST:PORT, or several with commas between them; "
            "a password with / ? @ , or % in it must be percent-encoded"
        )
    return f"{match[1]}:{port}"


def _options(query: str) -> Mapping[str, str]:
    options: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in _QUERY:
            raise _wrong(f"after the ? is something other than {'=, '.join(_QUERY)}=")
        if key in options or not value:
            raise _wrong(f"{key}= is {'there twice' if key in options else 'empty'}")
        options[key] = value
    if ("cert" in options) != ("key" in options):
        raise _wrong("cert= and key= go together")
    if options and "tls" not in options:
        raise _wrong(f"{next(iter(options))}= needs tls=system or tls=FILE")
    return options


def _wrong(what: str) -> StartError:
    return StartError(f"registry.store: {what}")
