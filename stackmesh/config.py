"""The YAML of a mesh as frozen models: one file for every process, read once, at the start.

Unknown keys are refused with their path and the nearest valid key. `${env.NAME}` and `${env.NAME:default}` are
replaced in every string. No message ever shows a value, because values may be secrets.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Literal, TypeVar, Union, cast, get_args, get_origin

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PositiveFloat, ValidationError

from stackmesh import names
from stackmesh.errors import InvalidField
from stackmesh.routes import HOSTED_BY, Api, ResourceType

M = TypeVar("M", bound=BaseModel)

SECTIONS: Final[Mapping[str, ResourceType.ValueType]] = {
    "models": ResourceType.RESOURCE_TYPE_MODEL,
    "shields": ResourceType.RESOURCE_TYPE_SHIELD,
    "memory_banks": ResourceType.RESOURCE_TYPE_MEMORY_BANK,
    "agents": ResourceType.RESOURCE_TYPE_AGENT,
}
"""The sections of the YAML that declare resources."""


class ConfigError(Exception):
    """The configuration cannot be used. The message names the file, the path within it and what to do."""


class Frozen(BaseModel):
    """The base of every configuration model, those of providers included."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)


def _address(value: object) -> object:
    host, _, port = str(value).rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError("must be HOST:PORT, for example 127.0.0.1:8321")
    return value


def _addresses(value: object) -> object:
    several = str(value).split(",")
    for address in several:
        _address(address)
        if len(several) > 1:
            _ip(address)
    return value


def _ip(address: str) -> None:
    try:
        ipaddress.ip_address(address.rpartition(":")[0].strip("[]"))
    except ValueError:
        raise ValueError(
            f"of several addresses each must be IP:PORT, which {address} is not; or one NAME:PORT that stands for all"
        ) from None


def _store(value: str) -> str:
    if not re.match(r"(sqlite:///|etcd://).", value):
        raise ValueError("must be sqlite:///PATH or etcd://HOST:PORT/PREFIX")
    return value


def _resource_name(value: object) -> object:
    return _named(names.check_resource_name, value)


def _id(value: object) -> object:
    return _named(names.check_id, value)


def _provider_type(value: object) -> object:
    return _named(names.check_provider_type, value)


def _named(check: Any, value: object) -> object:
    if not isinstance(value, str):
        raise ValueError(_TEXT)  # noqa: TRY004 -- what pydantic takes for a problem of the value
    try:
        return check("", value)
    except InvalidField as error:
        raise ValueError(error.description) from None


_TEXT: Final = "must be text; write it in quotes"
_IN_WORDS: Final[Mapping[str, str]] = {
    "tuple_type": "must be a list; leave it out where there is none",
    "string_type": _TEXT,
    "path_type": "must be a path, or null for none",
}
"""What pydantic says of values of the wrong type, as somebody sees it who writes YAML."""

Address = Annotated[str, BeforeValidator(_address)]
Addresses = Annotated[str, BeforeValidator(_addresses)]
ResourceName = Annotated[str, BeforeValidator(_resource_name)]
Id = Annotated[str, BeforeValidator(_id)]
ProviderType = Annotated[str, BeforeValidator(_provider_type)]


class RegistryConfig(Frozen):
    store: Annotated[str, AfterValidator(_store), Field(repr=False)] = "sqlite:///.stackmesh/registry.db"
    """`sqlite:///relative/path`, `sqlite:////absolute/path`, or for several replicas
    `etcd://[USER:PASSWORD@]HOST:PORT,HOST:PORT/PREFIX[?tls=...]`. registry_service/stores.py has the whole of it.
    """
    address: Addresses = "127.0.0.1:8322"
    """Where the registry is reached. With several replicas: all their `IP:PORT`s with commas between them, or one
    `NAME:PORT` that DNS resolves to all of them.
    """
    listen: Address | None = None
    """Where this replica listens. Absent: at `address`, which then is a single one."""
    lease_ttl: PositiveFloat = 15.0
    """Seconds an instance stays registered without a beat. It beats three times as often."""


class GatewayConfig(Frozen):
    address: Address = "127.0.0.1:8321"
    data_plane: Literal["python"] = "python"
    unary_timeout: PositiveFloat = 60.0
    """Seconds for a unary call whose client sets no deadline."""
    stream_timeout: PositiveFloat = 600.0
    """Seconds for a stream whose client sets no deadline."""
    snapshot_file: Path | None = Path(".stackmesh/gateway.snapshot")
    """Where the last good routes are kept, for a start without a registry. null: nowhere."""
    metrics_address: Address | None = None
    """Where Prometheus can read the gauges over HTTP. Absent: nowhere."""


class ServiceConfig(Frozen):
    address: Address = "127.0.0.1:0"
    """Where the service listens; port 0 takes a free one. Its real address is announced to the registry."""


class ServicesConfig(Frozen):
    inference: ServiceConfig = ServiceConfig()


class ProviderConfig(Frozen):
    provider_id: Id
    provider_type: ProviderType
    config: Mapping[str, Any] = Field(default_factory=dict[str, Any], repr=False)
    """What the provider type's own model accepts. The process that hosts the provider checks it."""
    auto_register: bool = False
    """Register what it serves under its own names, as far as those are free."""


class ProvidersConfig(Frozen):
    """The providers of each API. The first of an API is its default."""

    inference: tuple[ProviderConfig, ...] = ()
    safety: tuple[ProviderConfig, ...] = ()
    memory: tuple[ProviderConfig, ...] = ()
    agents: tuple[ProviderConfig, ...] = ()

    def of(self, api: Api.ValueType) -> tuple[ProviderConfig, ...]:
        return getattr(self, Api.Name(api).removeprefix("API_").lower(), ())

    def all(self) -> Iterator[tuple[Api.ValueType, ProviderConfig]]:
        for api in Api.values():
            for provider in self.of(api):
                yield api, provider


class ModelDeclaration(Frozen):
    """A model that shall be registered. Only its name is needed."""

    model_id: ResourceName
    provider_id: Id | None = None
    provider_model_id: ResourceName | None = None
    metadata: Mapping[str, Any] = Field(default_factory=dict[str, Any])


class ShieldDeclaration(Frozen):
    """A shield that shall be registered. Only its name is needed."""

    shield_id: ResourceName
    provider_id: Id | None = None
    provider_shield_id: ResourceName | None = None
    params: Mapping[str, Any] = Field(default_factory=dict[str, Any])


class MemoryBankDeclaration(Frozen):
    """A memory bank that shall be registered. `params` has one key, its kind: `vector: {embedding_model: ...}`."""

    memory_bank_id: ResourceName
    params: Mapping[str, Any]
    provider_id: Id | None = None
    provider_memory_bank_id: ResourceName | None = None


class AgentDeclaration(Frozen):
    """An agent that shall be registered. Only its name is needed."""

    agent_id: ResourceName
    provider_id: Id | None = None
    provider_agent_id: ResourceName | None = None
    metadata: Mapping[str, Any] = Field(default_factory=dict[str, Any])


Declaration = ModelDeclaration | ShieldDeclaration | MemoryBankDeclaration | AgentDeclaration


class Config(Frozen):
    version: Literal[1]
    registry: RegistryConfig = RegistryConfig()
    gateway: GatewayConfig = GatewayConfig()
    services: ServicesConfig = ServicesConfig()
    providers: ProvidersConfig = ProvidersConfig()
    models: tuple[ModelDeclaration, ...] = ()
    shields: tuple[ShieldDeclaration, ...] = ()
    memory_banks: tuple[MemoryBankDeclaration, ...] = ()
    agents: tuple[AgentDeclaration, ...] = ()


DEFAULT: Final = """\
version: 1
providers:
  inference:
  - {provider_id: local, provider_type: "inline::llamacpp", config: {model: smollm2-135m-instruct}}
models:
- model_id: smollm2-135m-instruct
"""
"""The mesh of `stackmesh up` without a file: one small model, in process, on this machine."""


def load(path: Path | None, environment: Mapping[str, str]) -> Config:
    """Read a file (None: the default mesh). Raises ConfigError with every problem that was found."""
    if path is None:
        return parse(DEFAULT, environment, "the default configuration")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read: {reason}") from None
    return parse(text, environment, str(path))


def parse(text: str, environment: Mapping[str, str], name: str) -> Config:
    """As `load`, from text. `name` is what the messages call it."""
    try:
        tree: object = yaml.load(text, _Loader)  # noqa: S506 -- a SafeLoader
    except RecursionError:
        raise ConfigError(f"{name}: is nested too deeply") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}:{mark.column + 1}" if mark is not None else ""
        raise ConfigError(f"{name}{where}: not YAML: {getattr(error, 'problem', None) or 'unreadable'}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{name}: must be a mapping that begins with `version: 1`")
    try:
        expanded = _expand(tree, environment, name, ())
    except RecursionError:
        raise ConfigError(f"{name}: something in it contains itself") from None
    try:
        return _checked(expanded)
    except ConfigError as error:
        raise ConfigError("\n".join(f"{name}: {line}" for line in str(error).splitlines())) from None


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice, which YAML forbids and PyYAML accepts."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 -- as PyYAML calls it
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value} is there twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _checked(tree: object) -> Config:
    config = validate(Config, tree)
    if problems := list(_contradictions(config)):
        raise ConfigError("\n".join(problems))
    return config


def validate(model: type[M], tree: object, at: str = "") -> M:
    """`tree`, found at the path `at`, as `model`.

    Raises ConfigError with a line for each problem: its path, what is wrong, the nearest valid key.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        found = error.errors(include_input=False)
        raise ConfigError("\n".join(_problem(model, e["type"], at, e["loc"], e["msg"]) for e in found)) from None


def _problem(model: type[BaseModel], kind: str, at: str, loc: Sequence[int | str], message: str) -> str:
    path = _path(loc, at)
    if kind == "extra_forbidden":
        known = list(_model_at(model, loc[:-1]).model_fields)
        near = difflib.get_close_matches(str(loc[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(known)}"
        return f"{path}: unknown key; {hint}"
    if kind == "missing":
        return f"{path}: is required"
    if kind in _IN_WORDS:
        return f"{path}: {_IN_WORDS[kind]}"
    return f"{path}: {message.removeprefix('Value error, ').replace('Input should be', 'must be', 1)}"


def _path(loc: Sequence[int | str], at: str = "") -> str:
    text = at + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return text.removeprefix(".") or "the file"


def _model_at(model: type[BaseModel], loc: Sequence[int | str]) -> type[BaseModel]:
    for part in loc:
        if isinstance(part, str) and part in model.model_fields:
            model = next(_models(model.model_fields[part].annotation), model)
    return model


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (tuple, list, Union, UnionType, Annotated):
        for argument in get_args(annotation):
            yield from _models(argument)


_VARIABLE: Final = re.compile(r"\$\{env\.([A-Za-z_][A-Za-z0-9_]*)(?::([^}]*))?\}")


def _expand(node: Any, environment: Mapping[str, str], name: str, loc: tuple[int | str, ...]) -> object:
    if isinstance(node, dict):
        items = cast("dict[Any, Any]", node).items()
        return {key: _expand(value, environment, name, (*loc, str(key))) for key, value in items}
    if isinstance(node, list):
        return [_expand(value, environment, name, (*loc, i)) for i, value in enumerate(cast("list[Any]", node))]
    if isinstance(node, str):
        return _VARIABLE.sub(lambda match: _variable(match, environment, name, loc), node)
    return node


def _variable(match: re.Match[str], environment: Mapping[str, str], name: str, loc: tuple[int | str, ...]) -> str:
    variable = match[1]
    value = environment.get(variable, match[2])
    if value is None:  # pyright: ignore[reportUnnecessaryComparison] -- a group that took no part is None
        hint = f"export it, or write ${{env.{variable}:DEFAULT}}"
        raise ConfigError(f"{name}: {_path(loc)}: the environment variable {variable} is not set; {hint}")
    return value


def _contradictions(config: Config) -> Iterator[str]:
    if config.registry.address == config.gateway.address and not config.gateway.address.endswith(":0"):
        yield f"gateway.address: {config.gateway.address} is the registry's too; each needs its own"
    for api in Api.values():
        ids = [provider.provider_id for provider in config.providers.of(api)]
        where = f"providers.{Api.Name(api)[4:].lower()}"
        for index, provider_id in enumerate(ids):
            if provider_id in ids[:index]:
                yield f"{where}[{index}].provider_id: {provider_id} is there twice"
    if config.registry.listen is None and "," in config.registry.address:
        yield "registry.listen: is required when registry.address names several replicas"
    for section, declarations in declared(config).items():
        yield from _undeclarable(section, declarations, config)


def declared(config: Config) -> Mapping[str, Sequence[Declaration]]:
    """What the YAML declares, by the section it is in."""
    return {section: getattr(config, section) for section in SECTIONS}


def _undeclarable(section: str, declarations: Sequence[Declaration], config: Config) -> Iterator[str]:
    kind = SECTIONS[section]
    word, api = ResourceType.Name(kind).removeprefix("RESOURCE_TYPE_").lower(), HOSTED_BY[kind]
    known = [provider.provider_id for provider in config.providers.of(api)]
    api_word = Api.Name(api).removeprefix("API_").lower()
    seen: set[str] = set()
    for index, declaration in enumerate(declarations):
        name: str = getattr(declaration, f"{word}_id")
        if name in seen:
            yield f"{section}[{index}].{word}_id: {name} is there twice"
        seen.add(name)
        if declaration.provider_id is not None and declaration.provider_id not in known:
            near = difflib.get_close_matches(declaration.provider_id, known, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"there are: {', '.join(known) or 'none'}"
            yield f"{section}[{index}].provider_id: no {api_word} provider is called {declaration.provider_id}; {hint}"
    if declarations and not known:
        yield f"{section}: there is no provider that could serve them; add one under providers.{api_word}"
