"""Connections of botocore's that another thread can end.

A thread that waits for a server is woken by nothing but its socket: shutting that down ends the call at once, wherever
it is, and the server sees its client go. `watch(client)` lets a client make connections that tell the Watch of the
current call which socket they use.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Final

from botocore.awsrequest import (
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
)
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool


class Watch:
    """The connection that one call uses. A connection that has gone back to its pool is the call's no more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # what is shut down is the call's at that moment
        self._connection: object = None
        self._line: socket.socket | None = None
        """The connection's socket under another descriptor: whoever shuts this one down meets nobody else's socket,
        whatever the thread closes meanwhile; and TLS has no part in it."""
        self.left = False
        """Whether nobody waits for the call any more."""
        self.reused = False
        """Whether its request went over a connection that had been used before."""
        self.response: Any = None
        """The urllib3 response, as soon as its headers are here."""
        self.prepared: Callable[[], None] = lambda: None
        """Is called when the request is made, and the network is waited for from now on."""

    @contextmanager
    def looking(self) -> Generator[None]:
        """What this thread connects to in the block is the call's."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)
            self.release()

    def take(self, connection: object, line: Any = None) -> None:
        """The call uses it; `line` is its socket, if it has one.

        Raises CancelledError, which botocore neither wraps nor tries again, if the call was left.
        """
        with self._lock:
            if self.left:
                raise CancelledError
            if connection is not self._connection:
                self._let_go()
                self._connection = connection
            if self._line is None and line is not None:
                self._line = socket.socket(fileno=os.dup(line.fileno()))

    def drop(self, connection: object) -> None:
        """The call has done with this connection."""
        with self._lock:
            if connection is self._connection:
                self._let_go()

    def release(self) -> None:
        """The call has done with whatever connection it has."""
        with self._lock:
            self._let_go()

    def leave(self) -> None:
        """End the call. Never blocks."""
        with self._lock:
            self.left = True
            if self._line is not None:
                with suppress(OSError):
                    self._line.shutdown(socket.SHUT_RDWR)

    def _let_go(self) -> None:
        self._connection = None
        if self._line is not None:
            self._line.close()
            self._line = None


_current: Final[ContextVar[Watch | None]] = ContextVar("watch", default=None)


class _Watched(HTTPConnection):
    """Before a connection class of botocore's."""

    _watch: Watch | None = None
    _used = False

    def connect(self) -> None:
        self._take()
        super().connect()
        self._take()

    def _new_conn(self) -> socket.socket:
        made = super()._new_conn()  # before any handshake
        try:
            self._take(made)
        except BaseException:
            made.close()
            raise
        return made

    def request(self, *args: Any, **kwargs: Any) -> None:
        watch = self._take(self.sock)
        if watch is not None:
            watch.reused, watch.response = self._used, None
        self._used = True
        super().request(*args, **kwargs)

    def getresponse(self) -> Any:
        response = super().getresponse()
        if self._watch is not None:
            self._watch.response = response
        return response

    def let_go(self) -> None:
        if self._watch is not None:
            self._watch.drop(self)
            self._watch = None

    def _take(self, line: Any = None) -> Watch | None:
        self._watch = watch = _current.get()
        if watch is not None:
            watch.prepared()
            watch.take(self, line)
        return watch


class _Connection(_Watched, AWSHTTPConnection): ...


class _TLSConnection(_Watched, AWSHTTPSConnection): ...


class _Returning(HTTPConnectionPool):
    """Before a pool class of botocore's: a connection is nobody's before somebody else can have it."""

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            conn.let_go()
        super()._put_conn(conn)


class _Pool(_Returning, AWSHTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(_Returning, AWSHTTPSConnectionPool):
    ConnectionCls = _TLSConnection


def watch(client: Any) -> None:
    """Let a new client make connections that can be ended."""
    # botocore has no other way to be given connection classes. A test breaks if it ever names this otherwise.
    pools = client._endpoint.http_session._pool_classes_by_scheme  # noqa: SLF001
    pools["http"], pools["https"] = _Pool, _TLSPool
