"""The commands, their options, and what `--help` teaches. What they do is imported when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stackmesh.cli import naming, registry
from stackmesh.cli.options import GATEWAY, INT32, INT64, Address, Lines, Listed, Output, Watched

app = typer.Typer(
    help="An LLM application stack as a mesh of gRPC services.",
    epilog="Begin with `stackmesh up`, then in another terminal `stackmesh chat`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(naming.register, name="register")
app.add_typer(naming.update, name="update")
app.add_typer(naming.unregister, name="unregister")
app.add_typer(registry.app, name="registry")


def _show_version(asked: bool) -> None:  # noqa: FBT001 -- as typer calls it
    if asked:
        version()
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[  # noqa: FBT002 -- a flag
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version.")
    ] = False,
) -> None:
    """What can be said without a command."""


@app.command(
    epilog="`stackmesh up` : the default mesh, one small model on this machine\n\n`stackmesh up mesh.yaml` : your own"
)
def up(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="The mesh's YAML. Without it: the default mesh.")
    ] = None,
) -> None:
    """Start a mesh on this machine and stay.

    Each service is a process of its own; one that dies is started again. Ctrl-C lets the calls in flight finish and
    stops; a second Ctrl-C stops at once. What the services write is in .stackmesh/logs.
    """
    from stackmesh.cli.up import run

    run(file, context.obj)


@app.command(
    epilog="`stackmesh chat 'What is a mesh?'`\n\n"
    "`stackmesh chat --model smollm2-135m-instruct --system 'Answer in one line.'` : a conversation\n\n"
    "`stackmesh chat -o json 'Hello' | jq -r .text`"
)
def chat(
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="What to say. Without it: a conversation.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="The model, by its registered name. Default: the only one.")
    ] = None,
    system: Annotated[str | None, typer.Option("--system", "-s", help="Instructions to the model.")] = None,
    temperature: Annotated[float | None, typer.Option(metavar="T", help="0 (always the likeliest word) to 2.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(metavar="N", min=-INT32, max=INT32, help="Most tokens to generate.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", min=0, max=2**32 - 1, help="The same seed gives the same answer.")
    ] = None,
    output: Annotated[Lines, typer.Option("--output", "-o", help="json: one event a line.")] = Lines.TABLE,
    address: Address = GATEWAY,
) -> None:
    """Talk to a model. The answer is shown as it is generated.

    In a conversation Ctrl-C cancels the answer, and Ctrl-D ends.
    """
    from stackmesh.cli.chat import Manner, run

    manner = Manner(model, system, temperature, max_tokens, seed, as_json=output is Lines.JSON)
    run(address, manner, prompt)


@app.command(
    epilog="`stackmesh get models` : what can be called, and why not\n\n"
    "`stackmesh get providers` : who serves it, and where\n\n"
    "`stackmesh get models my-llama -o yaml` : all of one\n\n"
    "`stackmesh get routes -o json | jq -r '.[].identifier'`\n\n"
    "`stackmesh get health` : what is wrong; code 1 if no call can be routed"
)
def get(
    kind: Annotated[Listed, typer.Argument(help="What to list.", show_default=False)],
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Only this one. Without it: all.", show_default=False)
    ] = None,
    output: Annotated[
        Output, typer.Option("--output", "-o", help="table: for people. json, yaml: every field.")
    ] = Output.TABLE,
    address: Address = GATEWAY,
) -> None:
    """List what the mesh knows, or show one of it."""
    if kind is Listed.HEALTH:
        if name is not None:
            raise typer.BadParameter("health is one, and has no names; leave it away", param_hint="NAME")
        from stackmesh.cli.health import run as show_health

        show_health(address, output)
        return
    from stackmesh.cli.get import run

    run(address, kind, name, output)


@app.command(
    epilog="`stackmesh watch` : everything, as it changes\n\n"
    "`stackmesh watch models --only-changes`\n\n"
    "`stackmesh watch instances -o json | jq -r .record.address`"
)
def watch(
    kind: Annotated[
        Watched | None, typer.Argument(help="What to watch. Without it: everything.", show_default=False)
    ] = None,
    only_changes: Annotated[bool, typer.Option("--only-changes", help="Leave out what there is already.")] = False,  # noqa: FBT002 -- a flag
    start_revision: Annotated[
        int | None,
        typer.Option(
            min=1, max=INT64, metavar="N", help="Go on from this revision, the last that was seen; it is told again."
        ),
    ] = None,
    output: Annotated[Lines, typer.Option("--output", "-o", help="json: one object a line.")] = Lines.TABLE,
    address: Address = GATEWAY,
) -> None:
    """Show what there is, then every change as it happens: + added, ~ changed, - removed.

    A gateway that is lost meanwhile is waited for, and nothing is missed; one that does not answer at the beginning is
    an error. Ctrl-C ends.
    """
    from stackmesh.cli.watch import run

    run(address, kind, output.value, start_revision, only_changes=only_changes)


@app.command(epilog="`stackmesh check mesh.yaml`")
def check(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The mesh's YAML.", show_default=False)],
) -> None:
    """Say whether a configuration can be used, without starting anything."""
    from stackmesh.cli.check import run

    run(file, context.obj)


@app.command(epilog="`stackmesh version`")
def version() -> None:
    """Show the version."""
    from stackmesh import __version__

    typer.echo(f"stackmesh {__version__}")
