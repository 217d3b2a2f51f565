"""The commands, their options, and what `--help` teaches. What they do is imported when they run."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="An LLM application stack as a mesh of gRPC services.",
    epilog="Begin with `stackmesh up`, then in another terminal `stackmesh chat`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
register = typer.Typer(help="Give something a name that can be called.", no_args_is_help=True)
unregister = typer.Typer(help="Take a name away.", no_args_is_help=True)
app.add_typer(register, name="register")
app.add_typer(unregister, name="unregister")


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"


class Kind(StrEnum):
    MODELS = "models"
    PROVIDERS = "providers"
    ROUTES = "routes"


Address = Annotated[
    str,
    typer.Option("--address", "-a", envvar="STACKMESH_ADDRESS", metavar="HOST:PORT", help="Where the gateway is."),
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="For people, or for programs.")]
GATEWAY = "127.0.0.1:8321"


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
        int | None, typer.Option(metavar="N", min=-(2**31), max=2**31 - 1, help="Most tokens to generate.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", min=0, max=2**32 - 1, help="The same seed gives the same answer.")
    ] = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="json: one event a line.")] = Output.TABLE,
    address: Address = GATEWAY,
) -> None:
    """Talk to a model. The answer is shown as it is generated.

    In a conversation Ctrl-C cancels the answer, and Ctrl-D ends.
    """
    from stackmesh.cli.chat import Manner, run

    manner = Manner(model, system, temperature, max_tokens, seed, as_json=output is Output.JSON)
    run(address, manner, prompt)


@app.command(
    epilog="`stackmesh get models` : what can be called\n\n"
    "`stackmesh get providers` : who serves it, and where\n\n"
    "`stackmesh get routes -o json`"
)
def get(
    kind: Annotated[Kind, typer.Argument(help="What to list.", show_default=False)],
    output: OutputOption = Output.TABLE,
    address: Address = GATEWAY,
) -> None:
    """List what the mesh knows."""
    from stackmesh.cli.get import run

    run(address, kind, as_json=output is Output.JSON)


@register.command(
    "model",
    epilog="`stackmesh register model llama3.1:8b` : the provider is found out\n\n"
    "`stackmesh register model fast --provider-id local --provider-model-id smollm2-135m-instruct`",
)
def register_model(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name it will be called by.", show_default=False)],
    provider_id: Annotated[str | None, typer.Option(help="The provider. Default: found out.")] = None,
    provider_model_id: Annotated[str | None, typer.Option(help="The provider's name for it. Default: NAME.")] = None,
    metadata: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="To remember. Repeatable.")] = None,
    metadata_json: Annotated[str | None, typer.Option(metavar="OBJECT", help="The same, as a JSON object.")] = None,
    address: Address = GATEWAY,
) -> None:
    """Register a model. It can be called at once."""
    from stackmesh.cli.register import parse_metadata, register

    register(address, name, provider_id, provider_model_id, parse_metadata(metadata or [], metadata_json))


@unregister.command("model", epilog="`stackmesh unregister model fast`")
def unregister_model(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name it is called by.", show_default=False)],
    address: Address = GATEWAY,
) -> None:
    """Remove a registration. A model of the YAML comes back with the next start: remove it there."""
    from stackmesh.cli.register import unregister

    unregister(address, name)


@app.command(epilog="`stackmesh check mesh.yaml`")
def check(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The mesh's YAML.", show_default=False)],
) -> None:
    """Say whether a configuration can be used, without starting anything."""
    from stackmesh.cli.check import run

    run(file, context.obj)


@app.command()
def version() -> None:
    """Show the version."""
    from stackmesh import __version__

    typer.echo(f"stackmesh {__version__}")
