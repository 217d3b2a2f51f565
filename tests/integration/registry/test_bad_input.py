"""What is refused: with a precise status, message and field, and nothing half-written."""

from contextlib import asynccontextmanager

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct

from stackmesh.errors import InvalidField, NotHosted, ProviderNotFound
from stackmesh.registry.v1 import memory_banks_service_pb2, models_service_pb2
from stackmesh.resources import api_word
from tests.fakes.instance import FakeProvider
from tests.integration.registry.client import MEMORY_BANK, MODEL
from tests.integration.registry.kinds import ALL, IDS, NAMES, VECTOR, embedder, payload, provider_id, providers

each_kind = pytest.mark.parametrize("kind", ALL, ids=IDS)
TOO_LARGE = {"note": "x" * 17_000}


@asynccontextmanager
async def unchanged(registry):
    """Nothing is written in the block."""
    before = await registry.entries()
    yield
    assert await registry.entries() == before


@each_kind
@pytest.mark.parametrize("value", ["x" * 10_240, "a b", "a%b", "-a", "ä", "a\n", "a\0"])
async def test_bad_names(registry, kind, value):
    names = registry.all[kind]
    async with registry.instance(providers("a")), unchanged(registry):
        for field in (f"{kind.word}_id", f"provider_{kind.word}_id", "provider_id"):
            given = {f"{kind.word}_id": "mine", **payload(kind), field: value}
            with pytest.raises(InvalidField) as raised:
                await names.register(given.pop(f"{kind.word}_id"), **given)
            assert raised.value.field == field
            assert len(raised.value.message) < 200


@each_kind
async def test_an_empty_name(registry, kind):
    names = registry.all[kind]
    for method in (names.register, names.get, names.update, names.unregister):
        with pytest.raises(InvalidField, match=f"{kind.word}_id is empty"):
            await method("")
        with pytest.raises(InvalidField, match=f"{kind.word}_id is 10240 characters long, at most 255"):
            await method("x" * 10_240)


@each_kind
async def test_the_meshs_own_names(registry, kind):
    async with registry.instance(providers("a")), unchanged(registry):
        with pytest.raises(InvalidField, match="begins with stackmesh/, which is kept for the mesh itself") as raised:
            await registry.all[kind].register("stackmesh/mine", **payload(kind))
        assert raised.value.field == f"{kind.word}_id"


@each_kind
async def test_a_provider_of_another_api(registry, kind):
    wrong = MODEL if kind is MEMORY_BANK else MEMORY_BANK
    other = provider_id(wrong, "a")
    match = (
        f"{other} is a provider of {api_word(wrong.api)}, not of {api_word(kind.api)}; "
        f"there are: {provider_id(kind, 'a')}"
    )
    async with registry.instance(providers("a")):
        row = await registry.all[kind].register("other", **payload(kind))
        async with unchanged(registry):
            with pytest.raises(ProviderNotFound, match=match):
                await registry.all[kind].register("mine", provider_id=other, **payload(kind))
            with pytest.raises(ProviderNotFound, match=match):
                await registry.all[kind].update("other", expected_revision=row.revision, provider_id=other)


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind is not MEMORY_BANK], ids=lambda kind: kind.word)
async def test_metadata_and_parameters_have_a_limit(registry, kind):
    names, field = registry.all[kind], kind.payload
    async with registry.instance(providers("a")):
        row = await names.register("mine", **{field: {"note": "x" * 16_000}})
        async with unchanged(registry):
            for method, fields in ((names.register, {}), (names.update, {"expected_revision": row.revision})):
                with pytest.raises(InvalidField, match=rf"{field} takes \d+ bytes, at most 16384") as raised:
                    await method("mine", **fields, **{field: TOO_LARGE})
                assert raised.value.field == field


BAD_BANKS = [
    ({}, "params", "must say the kind of bank, one of: vector, key_value, keyword, graph"),
    (
        {"vector": {**VECTOR["vector"], "chunk_size_in_tokens": 0}},
        "params.vector.chunk_size_in_tokens",
        "is required: 1 to",
    ),
    (
        {"vector": {**VECTOR["vector"], "overlap_size_in_tokens": 512}},
        "params.vector.overlap_size_in_tokens",
        "is 512, must be 0 to 511",
    ),
    ({"vector": {"chunk_size_in_tokens": 9}}, "params.vector.embedding_model", "is empty"),
    (
        {"vector": {**VECTOR["vector"], "embedding_model": "embeder"}},
        "params.vector.embedding_model",
        "embeder is not a registered model; there are: embedder",
    ),
]


@pytest.mark.parametrize(("params", "field", "description"), BAD_BANKS)
async def test_bad_parameters_of_a_memory_bank(registry, params, field, description):
    names = registry.memory_banks
    async with embedder(registry), registry.instance({"m": FakeProvider(NAMES, api=MEMORY_BANK.api)}) as instance:
        row = await names.register("mine", params=VECTOR)
        asked = len(instance.providers["m"].asked)
        async with unchanged(registry):
            for method, fields in (
                (names.register, {"provider_id": "m"}),
                (names.update, {"expected_revision": row.revision}),
            ):
                with pytest.raises(InvalidField) as raised:
                    await method("other" if method == names.register else "mine", params=params, **fields)
                assert (raised.value.field, raised.value.description[: len(description)]) == (field, description)
        assert len(instance.providers["m"].asked) == asked


async def test_a_bank_without_parameters(registry):
    async with unchanged(registry):
        with pytest.raises(InvalidField, match="params must say the kind of bank"):
            await registry.memory_banks.register("mine")


async def test_a_kind_of_bank_the_provider_does_not_have(registry):
    async with registry.instance({"m": FakeProvider(NAMES, api=MEMORY_BANK.api)}) as instance, unchanged(registry):
        instance.providers["m"].fails = NotHosted("m has key_value banks only")
        with pytest.raises(NotHosted, match="m has key_value banks only"):
            await registry.memory_banks.register("mine", params={"graph": {}})


async def raw(registry, method, body):
    """Send bytes; the status they get."""
    call = registry.channel.unary_unary(f"/stackmesh.registry.v1.{method}")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(body, timeout=10)
    return raised.value


async def test_a_kind_of_bank_from_the_future(registry):
    """Another kind of the oneof is none that we know: it must not be taken for one without parameters."""
    future = memory_banks_service_pb2.RegisterMemoryBankRequest(memory_bank_id="mine").SerializeToString()
    error = await raw(registry, "MemoryBanksService/RegisterMemoryBank", future + b"\x22\x02\x7a\x00")
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (error.details() or "").startswith("params must say the kind of bank")


async def test_metadata_no_parser_would_take(registry):
    """A tree that is nested too deeply is refused by protobuf or by us; the registry goes on."""
    tree = {"x": 1}
    for _ in range(25):
        tree = {"x": tree}
    metadata = Struct()
    metadata.update(tree)
    with pytest.raises(InvalidField, match="metadata is nested more than 20 levels deep"):
        await registry.register("mine", metadata=metadata)
    deep = b"\x0a\x01x\x12\x00"
    for _ in range(500):
        deep = field(1, field(1, b"x") + field(2, field(5, deep)))
    request = models_service_pb2.RegisterModelRequest(model_id="mine").SerializeToString() + field(4, deep)
    await raw(registry, "ModelsService/RegisterModel", request)
    assert await registry.revision() == 0


def field(number, value):
    """A field of bytes, as protobuf writes it."""
    size, length = len(value), b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + value


async def test_a_type_there_is_not(registry):
    error = await raw(registry, "ShieldTypesService/RegisterShieldType", b"")
    assert (error.code(), error.details()) == (grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
