"""What a connection is made safe with: files in PEM, which somebody may exchange while a registry runs."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc

from stackmesh.process import StartError

SYSTEM: Final = "system"
_CERTIFICATE: Final = "CERTIFICATE"
_PRIVATE_KEY: Final = "PRIVATE KEY"
_SYSTEM_AUTHORITIES: Final = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")


@dataclass(frozen=True, slots=True)
class Pem:
    """What the files held when they were read."""

    authorities: bytes
    key: bytes | None = field(default=None, repr=False)
    cert: bytes | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(self.authorities, self.key, self.cert)


def read(tls: str, key: str, cert: str) -> Pem | None:
    """As the URL's options of these names say; None without TLS. Raises StartError."""
    if not tls:
        return None
    authorities = _system_authorities() if tls == SYSTEM else _read("tls", tls, _CERTIFICATE)
    if not cert:
        return Pem(authorities)
    return Pem(authorities, _read("key", key, _PRIVATE_KEY), _read("cert", cert, _CERTIFICATE))


def _system_authorities() -> bytes:
    for path in (ssl.get_default_verify_paths().cafile, *_SYSTEM_AUTHORITIES):
        if path and Path(path).is_file():
            return Path(path).read_bytes()
    raise StartError("registry.store: tls=system: this machine has no list of authorities; name a file with tls=FILE")


def _read(option: str, path: str, what: str) -> bytes:
    """A PEM file that holds at least one of `what`; gRPC would only say that it cannot make a handshake."""
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise StartError(f"registry.store: {option}={path}: cannot be read: {error.strerror}") from None
    if not re.search(rf"-----BEGIN [A-Z ]*{what}-----".encode(), text):
        raise StartError(f"registry.store: {option}={path}: has no {what.lower()} in PEM in it")
    return text
