"""What an instance must not say."""

import grpc
import pytest

from stackmesh.errors import (
    InvalidField,
    from_rpc_error,
)
from stackmesh.registry.v1 import (
    resources_pb2 as pb,
)
from tests.fakes import instance as fakes
from tests.fakes.instance import FakeProvider
from tests.integration.registry.client import LLAMA, yaml


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"instance_id": ""}, "instance_id is empty"),
        ({"instance_id": "Upper"}, "instance_id may hold"),
        ({"instance_id": "x" * 10_240}, "instance_id is 10240 characters"),
        ({"address": ""}, "address must be IP:port"),
        ({"address": "localhost:1"}, "address must be IP:port"),
        ({"address": "127.0.0.1"}, "address must be IP:port"),
        ({"address": "127.0.0.1:0"}, "address must be IP:port"),
        ({"address": "127.0.0.1:70000"}, "address must be IP:port"),
        ({"providers": [{"provider_id": "a", "provider_type": "inline::x"}]}, "api has no value 0; there are: "),
        ({"providers": [{"api": 99, "provider_id": "a", "provider_type": "inline::x"}]}, "api has no value 99; "),
        ({"providers": [{"api": 1, "provider_id": "A", "provider_type": "inline::x"}]}, "provider_id may hold"),
        ({"providers": [{"api": 1, "provider_id": "a", "provider_type": "x"}]}, "provider_type must be"),
        (
            {"providers": [{"api": 1, "provider_id": "a", "provider_type": "inline::x"}] * 2},
            "providers names a twice",
        ),
        (
            {
                "providers": [
                    {
                        "api": 1,
                        "provider_id": "a",
                        "provider_type": "inline::x",
                        "provider_resource_ids": ["a b"],
                    }
                ]
            },
            "provider_resource_ids may hold",
        ),
        (
            {"providers": [{"api": 1, "provider_id": f"p{n}", "provider_type": "inline::x"} for n in range(49)]},
            "providers has 49 entries, at most 48",
        ),
        (
            {
                "providers": [
                    {
                        "api": 1,
                        "provider_id": "a",
                        "provider_type": "inline::x",
                        "provider_resource_ids": ["a" * 200] * 6000,
                    }
                ]
            },
            "provider_resource_ids take .* bytes",
        ),
    ],
)
async def test_a_bad_hello_is_refused(registry, changed, match):
    instance = fakes.FakeInstance("127.0.0.1:1", {}, "fine")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await instance.announce(registry.channel, **changed)
    with pytest.raises(InvalidField, match=match):
        raise from_rpc_error(raised.value)
    assert await registry.revision() == 0


async def test_hello_comes_first_and_only_first(registry):
    stream = fakes.FakeInstance("127.0.0.1:1", {}, "i")
    await stream.announce(registry.channel)
    with pytest.raises(grpc.aio.AioRpcError, match="hello is the first request of a stream"):
        await stream.say(hello=stream.hello())
    for event in ({"beat": {}}, {}):
        stream.stream = fakes.AnnounceServiceStub(registry.channel).Announce()
        with pytest.raises(grpc.aio.AioRpcError, match="hello is the first request of a stream"):
            await stream.say(**event)


async def test_a_provider_of_another_type_than_the_yamls_is_refused(disk):
    async with disk.registry(yaml("local")) as registry:
        instance = fakes.FakeInstance("127.0.0.1:1", {"local": FakeProvider(LLAMA, "remote::other")}, "i")
        with pytest.raises(grpc.aio.AioRpcError, match="local is inline::fake, this instance says remote::other"):
            await instance.announce(registry.channel)
        assert await registry.instances() == {}


async def test_a_provider_the_yaml_does_not_name_may_change_its_type(registry):
    async with registry.instance({"local": FakeProvider(LLAMA)}):
        assert (await registry.provider("local")).source == pb.SOURCE_DISCOVERED
        async with registry.instance({"local": FakeProvider(LLAMA, "remote::other")}):
            assert (await registry.provider("local")).provider_type == "remote::other"
