"""The commands `register`, `update` and `unregister`: one for each type of resource, made from the table of types."""
# No postponed annotations: typer reads those of the commands made here, and they hold the names of their options.

from collections.abc import Callable
from typing import Annotated, Final

import typer

from stackmesh.cli.options import (
    GATEWAY,
    INT32,
    TYPES,
    Address,
    BankKind,
    ExpectedRevision,
    Name,
    NewName,
    NewProviderId,
    ProviderId,
)

register = typer.Typer(help="Give something a name that can be called.", no_args_is_help=True)
update = typer.Typer(
    help="Change what a name stands for, in one write: no call finds it missing.", no_args_is_help=True
)
unregister = typer.Typer(help="Take a name away.", no_args_is_help=True)

_EXAMPLES: Final = {
    "register model": (
        "`stackmesh register model llama3.1:8b` : the provider is found out\n\n"
        "`stackmesh register model fast --provider-id local --provider-model-id smollm2-135m-instruct`"
    ),
    "register shield": (
        "`stackmesh register shield Llama-Guard-3-1B` : the provider that knows it is found out\n\n"
        "`stackmesh register shield strict --provider-id bedrock --params guardrailVersion=2`"
    ),
    "register memory-bank": (
        "`stackmesh register memory-bank docs --kind vector --embedding-model minilm --chunk-size 512`\n\n"
        "`stackmesh register memory-bank settings --kind key-value --provider-id redis`"
    ),
    "register agent": "`stackmesh register agent helper --metadata team=search`",
    "update model": (
        "`stackmesh update model fast --provider-id gpu` : the next call goes there\n\n"
        '`stackmesh update model fast --metadata-json \'{"team": "chat"}\' --expected-revision 42`'
    ),
    "update shield": "`stackmesh update shield strict --params guardrailVersion=3`",
    "update memory-bank": (
        "`stackmesh update memory-bank docs --chunk-size 256 --overlap 32` : its embedding model stays\n\n"
        "`stackmesh update memory-bank docs --provider-id redis`"
    ),
    "update agent": "`stackmesh update agent helper --metadata team=chat`",
    "unregister model": "`stackmesh unregister model fast`",
    "unregister shield": "`stackmesh unregister shield strict --expected-revision 42` : unless somebody changed it",
    "unregister memory-bank": "`stackmesh unregister memory-bank docs`",
    "unregister agent": "`stackmesh unregister agent helper`",
}

Command = Callable[..., None]


def _register(kind: str, payload: str) -> Command:
    def command(
        name: NewName,
        provider_id: ProviderId = None,
        provider_name: Annotated[
            str | None, typer.Option(f"--provider-{kind}-id", help="The provider's name for it. Default: NAME.")
        ] = None,
        pairs: Annotated[
            list[str] | None, typer.Option(f"--{payload}", metavar="KEY=VALUE", help="To be kept. Repeatable.")
        ] = None,
        text: Annotated[
            str | None, typer.Option(f"--{payload}-json", metavar="OBJECT", help="The same, as a JSON object.")
        ] = None,
        address: Address = GATEWAY,
    ) -> None:
        from stackmesh.cli.register import Naming, parse_values, register

        register(address, Naming(kind, name, provider_id, provider_name, parse_values(payload, pairs or [], text)))

    return command


def _update(kind: str, payload: str) -> Command:
    def command(
        name: Name,
        provider_id: NewProviderId = None,
        provider_name: Annotated[
            str | None, typer.Option(f"--provider-{kind}-id", help="The provider's name for it. Default: as it is.")
        ] = None,
        pairs: Annotated[
            list[str] | None, typer.Option(f"--{payload}", metavar="KEY=VALUE", help="Instead of all there was.")
        ] = None,
        text: Annotated[
            str | None, typer.Option(f"--{payload}-json", metavar="OBJECT", help="The same, as a JSON object.")
        ] = None,
        expected_revision: ExpectedRevision = None,
        address: Address = GATEWAY,
    ) -> None:
        from stackmesh.cli.register import Naming, parse_values, update

        naming = Naming(kind, name, provider_id, provider_name, parse_values(payload, pairs or [], text))
        update(address, naming, expected_revision)

    return command


def _unregister(kind: str) -> Command:
    def command(name: Name, expected_revision: ExpectedRevision = None, address: Address = GATEWAY) -> None:
        from stackmesh.cli.unregister import unregister

        unregister(address, kind, name, expected_revision)

    return command


_Embedding = Annotated[
    str | None, typer.Option(metavar="MODEL", help="vector, needed: the registered model to embed with.")
]
_Chunk = Annotated[
    int | None, typer.Option(metavar="TOKENS", min=1, max=INT32, help="vector, needed: tokens in a piece.")
]
_Overlap = Annotated[
    int | None,
    typer.Option(
        metavar="TOKENS", min=0, max=INT32, help="vector: tokens shared with the next piece. Default: a quarter."
    ),
]


def _register_bank(
    name: NewName,
    kind: Annotated[BankKind, typer.Option(help="What kind of bank it is.", show_default=False)],
    embedding_model: _Embedding = None,
    chunk_size: _Chunk = None,
    overlap: _Overlap = None,
    provider_id: ProviderId = None,
    provider_memory_bank_id: Annotated[
        str | None, typer.Option(help="The provider's name for it. Default: NAME.")
    ] = None,
    address: Address = GATEWAY,
) -> None:
    from stackmesh.cli.banks import BankOptions
    from stackmesh.cli.register import Naming, register

    options = BankOptions.of(kind, embedding_model, chunk_size, overlap)
    register(address, Naming("memory-bank", name, provider_id, provider_memory_bank_id, options))


def _update_bank(
    name: Name,
    kind: Annotated[BankKind | None, typer.Option(help="Instead of what it is. Default: as it is.")] = None,
    embedding_model: _Embedding = None,
    chunk_size: _Chunk = None,
    overlap: _Overlap = None,
    provider_id: NewProviderId = None,
    provider_memory_bank_id: Annotated[
        str | None, typer.Option(help="The provider's name for it. Default: as it is.")
    ] = None,
    expected_revision: ExpectedRevision = None,
    address: Address = GATEWAY,
) -> None:
    from stackmesh.cli.banks import BankOptions
    from stackmesh.cli.register import Naming, update

    options = BankOptions.of(kind, embedding_model, chunk_size, overlap) or None
    update(address, Naming("memory-bank", name, provider_id, provider_memory_bank_id, options), expected_revision)


def _add(group: typer.Typer, verb: str, kind: str, text: str, command: Command) -> None:
    group.command(kind, help=text, epilog=_EXAMPLES[f"{verb} {kind}"])(command)


for _kind, _payload in TYPES.items():
    _words = _kind.replace("-", " ")
    _a = f"an {_words}" if _words[0] in "aeiou" else f"a {_words}"
    _bank = _kind == "memory-bank"
    _add(
        register,
        "register",
        _kind,
        f"Register {_a}." + (" It can be called at once." if _kind == "model" else ""),
        _register_bank if _bank else _register(_kind, _payload),
    )
    _add(
        update,
        "update",
        _kind,
        f"Change the registration of {_a}. What is not given stays as it is.",
        _update_bank if _bank else _update(_kind, _payload),
    )
    _add(
        unregister,
        "unregister",
        _kind,
        f"Remove a registration. {_a.capitalize()} of the YAML is refused: remove it there.",
        _unregister(_kind),
    )
