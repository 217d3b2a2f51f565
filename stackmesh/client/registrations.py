"""client.models, client.shields, client.memory_banks, client.agents: names that can be called.

    model = await client.models.register("my-llama", provider_model_id="llama3.1:8b", metadata={"team": "search"})
    await client.models.update("my-llama", expected_revision=model.revision, metadata={"team": "chat"})

To register needs the name alone where only one provider recognises it; the new name can be called at once. It raises
NotHosted, AmbiguousProvider, ProviderNotFound; ResourceExists if the name has other fields already.

To update changes what is given and leaves the rest; the name routes before, during and after it. It raises Conflict
when somebody else was faster, Declared for what is the YAML's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import grpc
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.struct_pb2 import Struct

from stackmesh.client.named import Named
from stackmesh.client.options import Options
from stackmesh.client.structs import to_struct
from stackmesh.errors import InvalidField
from stackmesh.registry.v1 import (
    agents_service_pb2,
    memory_banks_service_pb2,
    models_service_pb2,
    resources_pb2 as pb,
    shields_service_pb2,
)
from stackmesh.registry.v1.agents_service_pb2_grpc import AgentsServiceStub
from stackmesh.registry.v1.memory_banks_service_pb2_grpc import MemoryBanksServiceStub
from stackmesh.registry.v1.models_service_pb2_grpc import ModelsServiceStub
from stackmesh.registry.v1.shields_service_pb2_grpc import ShieldsServiceStub
from stackmesh.resources import KINDS
from stackmesh.routes import ResourceType

Values = Mapping[str, Any]


class Models(Named[pb.Model]):
    def __init__(self, channel: grpc.aio.Channel, options: Options) -> None:
        kind = KINDS[ResourceType.RESOURCE_TYPE_MODEL]
        super().__init__(kind, models_service_pb2, ModelsServiceStub(channel), options)

    async def register(
        self,
        model_id: str,
        *,
        provider_id: str | None = None,
        provider_model_id: str | None = None,
        metadata: Values | None = None,
    ) -> pb.Model:
        """Register a model."""
        fields = {"provider_id": provider_id, "provider_model_id": provider_model_id}
        return await self._call("Register", model_id, {**fields, "metadata": _struct("metadata", metadata)})

    async def update(
        self,
        model_id: str,
        *,
        expected_revision: int,
        provider_id: str | None = None,
        provider_model_id: str | None = None,
        metadata: Values | None = None,
    ) -> pb.Model:
        """Change a registration that is at `expected_revision`. `metadata` replaces the whole."""
        fields = {"provider_id": provider_id, "provider_model_id": provider_model_id}
        fields |= {"expected_revision": expected_revision, "metadata": _struct("metadata", metadata)}
        return await self._call("Update", model_id, fields)


class Shields(Named[pb.Shield]):
    def __init__(self, channel: grpc.aio.Channel, options: Options) -> None:
        kind = KINDS[ResourceType.RESOURCE_TYPE_SHIELD]
        super().__init__(kind, shields_service_pb2, ShieldsServiceStub(channel), options)

    async def register(
        self,
        shield_id: str,
        *,
        provider_id: str | None = None,
        provider_shield_id: str | None = None,
        params: Values | None = None,
    ) -> pb.Shield:
        """Register a shield. `params` are what its provider needs to know."""
        fields = {"provider_id": provider_id, "provider_shield_id": provider_shield_id}
        return await self._call("Register", shield_id, {**fields, "params": _struct("params", params)})

    async def update(
        self,
        shield_id: str,
        *,
        expected_revision: int,
        provider_id: str | None = None,
        provider_shield_id: str | None = None,
        params: Values | None = None,
    ) -> pb.Shield:
        """Change a registration that is at `expected_revision`. `params` replace the whole."""
        fields = {"provider_id": provider_id, "provider_shield_id": provider_shield_id}
        fields |= {"expected_revision": expected_revision, "params": _struct("params", params)}
        return await self._call("Update", shield_id, fields)


class MemoryBanks(Named[pb.MemoryBank]):
    """`params` say what kind of bank it is, as the message or as in the YAML:
    `{"vector": {"embedding_model": "minilm", "chunk_size_in_tokens": 512}}`, or `{"key_value": {}}`.
    """

    def __init__(self, channel: grpc.aio.Channel, options: Options) -> None:
        kind = KINDS[ResourceType.RESOURCE_TYPE_MEMORY_BANK]
        super().__init__(kind, memory_banks_service_pb2, MemoryBanksServiceStub(channel), options)

    async def register(
        self,
        memory_bank_id: str,
        *,
        params: pb.MemoryBankParams | Values,
        provider_id: str | None = None,
        provider_memory_bank_id: str | None = None,
    ) -> pb.MemoryBank:
        """Register a memory bank."""
        fields = {"provider_id": provider_id, "provider_memory_bank_id": provider_memory_bank_id}
        return await self._call("Register", memory_bank_id, {**fields, "params": bank_params(params)})

    async def update(
        self,
        memory_bank_id: str,
        *,
        expected_revision: int,
        provider_id: str | None = None,
        provider_memory_bank_id: str | None = None,
        params: pb.MemoryBankParams | Values | None = None,
    ) -> pb.MemoryBank:
        """Change a registration that is at `expected_revision`. `params` replace the whole."""
        fields = {"provider_id": provider_id, "provider_memory_bank_id": provider_memory_bank_id}
        made = None if params is None else bank_params(params)
        return await self._call(
            "Update", memory_bank_id, {**fields, "expected_revision": expected_revision, "params": made}
        )


class Agents(Named[pb.Agent]):
    def __init__(self, channel: grpc.aio.Channel, options: Options) -> None:
        kind = KINDS[ResourceType.RESOURCE_TYPE_AGENT]
        super().__init__(kind, agents_service_pb2, AgentsServiceStub(channel), options)

    async def register(
        self,
        agent_id: str,
        *,
        provider_id: str | None = None,
        provider_agent_id: str | None = None,
        metadata: Values | None = None,
    ) -> pb.Agent:
        """Register an agent."""
        fields = {"provider_id": provider_id, "provider_agent_id": provider_agent_id}
        return await self._call("Register", agent_id, {**fields, "metadata": _struct("metadata", metadata)})

    async def update(
        self,
        agent_id: str,
        *,
        expected_revision: int,
        provider_id: str | None = None,
        provider_agent_id: str | None = None,
        metadata: Values | None = None,
    ) -> pb.Agent:
        """Change a registration that is at `expected_revision`. `metadata` replaces the whole."""
        fields = {"provider_id": provider_id, "provider_agent_id": provider_agent_id}
        fields |= {"expected_revision": expected_revision, "metadata": _struct("metadata", metadata)}
        return await self._call("Update", agent_id, fields)


def bank_params(params: pb.MemoryBankParams | Values) -> pb.MemoryBankParams:
    """The message. Raises InvalidField for values that are not its."""
    if isinstance(params, pb.MemoryBankParams):
        return params
    wrong = "are not those of a memory bank"
    kinds = pb.MemoryBankParams.DESCRIPTOR.fields_by_name
    [kind] = params if len(params) == 1 else [""]
    if kind not in kinds:
        raise InvalidField("params", f"{wrong}: they have one key, one of {', '.join(kinds)}")
    known, its = list(getattr(pb.MemoryBankParams(), kind).DESCRIPTOR.fields_by_name), params[kind]
    if not isinstance(its, Mapping) or not set(cast("Values", its)) <= set(known):
        takes = f"a mapping that may have {', '.join(known)}" if known else "an empty mapping, {}"
        raise InvalidField("params", f"{wrong}: {kind} takes {takes}")
    try:
        return ParseDict(dict(params), pb.MemoryBankParams())
    except (ParseError, TypeError, ValueError):
        raise InvalidField("params", f"{wrong}: {kind} has a value that is not of its key's type") from None


def _struct(field: str, values: Values | None) -> Struct | None:
    return None if values is None else to_struct(field, values)
