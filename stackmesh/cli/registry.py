"""The commands `registry export` and `registry import`: the users' registrations as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stackmesh.cli.options import GATEWAY, Address

app = typer.Typer(help="Back up what users have registered, and bring it back.", no_args_is_help=True)


@app.command(
    "export",
    epilog="`stackmesh registry export backup.yaml`\n\n`stackmesh registry export - | gzip > backup.yaml.gz`",
)
def export(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="Where to; - is standard output.", show_default=False)
    ] = "-",
    address: Address = GATEWAY,
) -> None:
    """Write every registration that a user made, as it is at one moment, as YAML.

    Its sections are those of a mesh's YAML and can be pasted there. What the mesh's YAML declares and what was
    discovered is listed for reading only: it comes back by itself.
    """
    from stackmesh.cli.export import run

    run(address, None if file == "-" else Path(file))


@app.command(
    "import",
    epilog="`stackmesh registry import --dry-run backup.yaml` : what would happen\n\n"
    "`stackmesh registry import backup.yaml` : what is there already stays\n\n"
    "`stackmesh registry import --replace backup.yaml` : what differs becomes as in the file",
)
def import_(
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="What `registry export` wrote; - is standard input.", show_default=False),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen; write nothing.")] = False,  # noqa: FBT002 -- a flag
    replace: Annotated[bool, typer.Option("--replace", help="Change what differs from the file.")] = False,  # noqa: FBT002 -- a flag
    address: Address = GATEWAY,
) -> None:
    """Register what a file holds, and say of each entry what became of it.

    Nothing is removed. It can be run again: what is there already is unchanged. Ends with code 1 unless every entry is
    there as the file has it.
    """
    from stackmesh.cli.importing import run

    run(address, None if file == "-" else Path(file), dry_run=dry_run, replace=replace)
