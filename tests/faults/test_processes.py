"""Nothing a fault run starts is left behind, whatever state it is in."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.faults.mesh import meshed, say
from tests.faults.processes import ROOT
from tests.waiting import until

FREEZER = """
    import asyncio, sys
    from pathlib import Path
    from tests.faults.processes import Member
    async def main():
        member = Member("registry_service", Path(sys.argv[1]), "frozen")
        await member.start()
        member.freeze()
        print(member.pid, flush=True)
        await asyncio.Event().wait()
    asyncio.run(main())
"""


def state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "gone"


async def test_a_mesh_starts_freezes_thaws_and_ends(tmp_path):
    async with meshed(tmp_path, f"sqlite:///{tmp_path}/r.db", registries=1, gateways=1) as mesh:
        await mesh.start()
        assert await say(mesh.clients[0]) == "echo-0"
        pids = [member.pid for member in mesh.members]
        for member in mesh.members:
            member.freeze()
        await until(lambda: {state(pid) for pid in pids} == {"T"})
        mesh.gateways[0].thaw()
        assert await mesh.gateways[0].stop() == 0
    assert {state(pid) for pid in pids} == {"gone"}


async def test_a_frozen_process_does_not_outlive_who_froze_it(tmp_path):
    config = tmp_path / "mesh.yaml"
    config.write_text(f"version: 1\nregistry: {{store: 'sqlite:///{tmp_path}/r.db', address: '127.0.0.1:0'}}\n")
    command = [sys.executable, "-c", textwrap.dedent(FREEZER), str(config)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:  # noqa: ASYNC220 -- nothing else runs here
        pid = int(holder.stdout.readline())
        await until(lambda: state(pid) == "T")
        holder.send_signal(signal.SIGKILL)
    await until(lambda: state(pid) == "gone", 20)
