"""Keeps the processes of a mesh running on one machine: `stackmesh up`.

Each service is a process of its own and says how far it is in the protocol of sd_notify(3). One that dies is started
again; one that says its configuration has to change first (exit code 78 before it was ever ready) ends the whole mesh.
"""

from stackmesh.supervisor.commands import Command, commands, same_code, unhosted
from stackmesh.supervisor.status import Observer, StartFailed, State, Status, SupervisorFailed
from stackmesh.supervisor.supervisor import Supervisor, supervised

__all__ = [
    "Command",
    "Observer",
    "StartFailed",
    "State",
    "Status",
    "Supervisor",
    "SupervisorFailed",
    "commands",
    "same_code",
    "supervised",
    "unhosted",
]
