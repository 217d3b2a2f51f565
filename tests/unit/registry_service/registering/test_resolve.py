import pytest
from google.protobuf.struct_pb2 import Struct

from registry_service import records
from registry_service.mirror.known import Known
from registry_service.registering.resolve import Resolved, Resolver
from stackmesh.errors import AmbiguousName, AmbiguousProvider, BackendUnreachable, NotHosted, ProviderNotFound, Timeout
from stackmesh.provider.v1.provider_service_pb2 import ResolveRequest
from stackmesh.registry.v1 import resources_pb2 as pb, watch_service_pb2
from stackmesh.routes import Api, ResourceType
from tests.fakes import instance as fakes
from tests.fakes.instance import FakeProvider


def known(*records_):
    def entry(record):
        key = records.key_of(record)
        found = watch_service_pb2.Entry(key=key)
        getattr(found, key.partition("/")[0]).CopyFrom(record)
        return found

    return Known().after(map(entry, records_), 1)


def provider(provider_id, api=Api.API_INFERENCE, served=()):
    return pb.Provider(api=api, provider_id=provider_id, served=served)


def host(instance_id, address, *provider_ids, lacks=()):
    entries = [pb.HostedProvider(api=Api.API_INFERENCE, provider_id=p, not_served=lacks) for p in provider_ids]
    return pb.Instance(instance_id=instance_id, address=address, providers=entries)


def wanted(name, provider_id="", **fields):
    return ResolveRequest(
        resource_type=ResourceType.RESOURCE_TYPE_MODEL, provider_resource_id=name, provider_id=provider_id, **fields
    )


async def test_an_instance_that_does_not_answer_is_given_up_for_the_next():
    hanging, answering = FakeProvider({"m": "x"}), FakeProvider({"m": "x"})
    hanging.hangs = True
    resolver = Resolver(ask_seconds=0.2)
    async with fakes.running({"p": hanging}) as one, fakes.running({"p": answering}) as two:
        first = host("i1", one.address, "p")
        with pytest.raises(Timeout, match=r"the provider p did not answer within 0.2 s"):
            await resolver.resolve(wanted("m"), known(provider("p"), first))
        both = known(provider("p"), first, host("i2", two.address, "p"))
        assert await resolver.resolve(wanted("m"), both) == Resolved("p", "x")
        assert (hanging.asked, answering.asked) == (["m", "m"], ["m"])


async def test_a_provider_with_many_frozen_instances_does_not_hold_the_question_for_ever():
    hanging = FakeProvider({"m": "x"})
    hanging.hangs = True
    async with fakes.running({"p": hanging}) as instance:
        frozen = [host(f"i{n}", instance.address, "p") for n in range(100)]
        with pytest.raises(Timeout):
            await Resolver(ask_seconds=0.2, patience_seconds=0.3).resolve(wanted("m"), known(provider("p"), *frozen))
        assert len(hanging.asked) in (1, 2)  # of a hundred; each takes 0.2 s or more


async def test_who_serves_a_name_is_asked_first():
    """Two versions of a program; the one that does not know the name is the first by its id."""
    old, new = FakeProvider({"old": "old"}), FakeProvider({"new": "new"})
    async with fakes.running({"p": old}) as one, fakes.running({"p": new}) as two:
        hosts = host("i1", one.address, "p", lacks=["new"]), host("i2", two.address, "p", lacks=["old"])
        there = known(provider("p", served=["new", "old"]), *hosts)
        assert await Resolver().resolve(wanted("new"), there) == Resolved("p", "new")
    assert (old.asked, new.asked) == ([], ["new"])


async def a_name_one_instance_refuses_is_known_to_another(**options):
    one, other = FakeProvider({"old": "old"}), FakeProvider({"alias": "new"})
    async with fakes.running({"p": one}) as first, fakes.running({"p": other}) as second:
        hosts = host("i1", first.address, "p", lacks=["new"]), host("i2", second.address, "p", lacks=["old"])
        there = known(provider("p", served=["new", "old"]), *hosts)
        assert await Resolver(**options).resolve(wanted("alias"), there) == Resolved("p", "new")
        assert one.asked == ["alias"]


async def test_what_one_instance_refuses_another_may_host():
    await a_name_one_instance_refuses_is_known_to_another()


async def test_the_check_sees_a_resolver_that_takes_the_first_no_for_all():
    with pytest.raises(NotHosted):
        await a_name_one_instance_refuses_is_known_to_another(refusals=1)


async def test_a_refusal_is_certain_only_if_everybody_who_was_asked_refuses():
    refusing, hanging = FakeProvider({}), FakeProvider({})
    hanging.hangs = True
    async with fakes.running({"p": refusing}) as one, fakes.running({"p": hanging}) as two:
        hosts = host("i1", one.address, "p"), host("i2", two.address, "p")
        with pytest.raises(Timeout):
            await Resolver(ask_seconds=0.2).resolve(wanted("m"), known(provider("p"), *hosts))
        hanging.hangs = False
        with pytest.raises(NotHosted):
            await Resolver().resolve(wanted("m"), known(provider("p"), *hosts))


async def test_a_mistyped_name_does_not_go_to_everybody():
    one = FakeProvider({})
    async with fakes.running({"p": one}) as instance:
        hosts = [host(f"i{n}", instance.address, "p") for n in range(20)]
        with pytest.raises(NotHosted):
            await Resolver(refusals=3).resolve(wanted("m"), known(provider("p"), *hosts))
        assert len(one.asked) == 3


async def test_providers_are_asked_at_the_same_time():
    slow = {p: FakeProvider({}) for p in ("a", "b", "c", "d")}
    for one in slow.values():
        one.hangs = True
    async with fakes.running(slow) as instance:
        there = known(*map(provider, slow), host("i", instance.address, *slow))
        with pytest.raises(BackendUnreachable, match=r"a: the provider a did not answer .* d: the provider d did not"):
            await Resolver(ask_seconds=0.3).resolve(wanted("m"), there)
        assert [p.asked for p in slow.values()] == [["m"]] * 4


async def test_the_whole_question_reaches_the_provider():
    one = FakeProvider({"m": "x"})
    async with fakes.running({"p": one}) as instance:
        metadata = Struct()
        metadata.update({"k": "v"})
        asked = wanted("m", metadata=metadata)
        await Resolver().resolve(asked, known(provider("p"), host("i", instance.address, "p")))
        assert asked == wanted("m", metadata=metadata)
    assert one.requests == [wanted("m", "p", metadata=metadata)]


async def test_a_provider_of_another_api_is_called_that():
    there = known(provider("guard", Api.API_SAFETY), provider("guard", Api.API_MEMORY), provider("llm"))
    with pytest.raises(
        ProviderNotFound, match="guard is a provider of safety and memory, not of inference; there are: llm"
    ):
        await Resolver().resolve(wanted("m", "guard"), there)


async def test_a_name_that_stands_for_several_is_not_unknown():
    one, other = FakeProvider({}), FakeProvider({"m": "x"})
    one.fails = AmbiguousName("m may be m-fp8 or m-bf16", metadata={"candidates": "m-fp8, m-bf16"})
    async with fakes.running({"a": one, "b": other, "c": FakeProvider({})}) as instance:
        there = known(*map(provider, "abc"), host("i", instance.address, *"abc"))
        with pytest.raises(AmbiguousProvider, match="several providers recognise m: a, b; set provider_id"):
            await Resolver().resolve(wanted("m"), there)
        other.aliases.clear()
        with pytest.raises(AmbiguousName, match="m may be m-fp8 or m-bf16") as raised:
            await Resolver().resolve(wanted("m"), there)
        assert raised.value.metadata == {"candidates": "m-fp8, m-bf16"}
        one.fails = None
        with pytest.raises(NotHosted):
            await Resolver().resolve(wanted("m"), there)


async def test_of_many_providers_that_recognise_a_name_a_few_are_named():
    """A list of them all would leave no room in the status for what the error is."""
    many = {f"provider-number-{n:03}": FakeProvider({"m": "x"}) for n in range(12)}
    async with fakes.running(many) as instance:
        there = known(*map(provider, many), host("i", instance.address, *many))
        with pytest.raises(AmbiguousProvider, match="provider-number-004 and 7 more; set provider_id") as raised:
            await Resolver().resolve(wanted("m"), there)
        assert raised.value.metadata == {"providers": ", ".join(list(many)[:5])}


async def test_a_name_that_stands_for_several_long_ones_does_not_go_to_another_provider():
    """As it travels over the wire from the process that hosts the provider."""
    one, other = FakeProvider({}), FakeProvider({"m": "x"})
    several = ", ".join(f"{n}-{'long' * 60}" for n in range(5))
    one.fails = AmbiguousName(f"m stands for 5 models: {several}", metadata={"candidates": several})
    async with fakes.running({"a": one, "b": other}) as instance:
        there = known(*map(provider, "ab"), host("i", instance.address, *"ab"))
        with pytest.raises(AmbiguousProvider, match="several providers recognise m: a, b; set provider_id"):
            await Resolver().resolve(wanted("m"), there)
