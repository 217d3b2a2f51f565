"""An error is the same on both sides of the wire, and always fits into a header."""

import grpc
import pytest
from google.rpc import error_details_pb2
from hypothesis import given, strategies as st

from stackmesh import errors


def over_the_wire(error: errors.MeshError) -> errors.MeshError:
    status = errors.to_status(error)
    call = grpc.aio.AioRpcError(
        error.code,
        grpc.aio.Metadata(),
        grpc.aio.Metadata(*errors.trailers(status)),
        details=status.message,
    )
    return errors.from_rpc_error(call)


@pytest.mark.parametrize("kind", sorted(errors._TABLE, key=lambda kind: kind.__name__))
def test_every_error_arrives_as_itself(kind):
    arguments = {errors.InvalidField: ("model_id", "is empty"), errors.ContextExceeded: (700, 512)}.get(kind, ("no",))
    sent = kind(*arguments)
    got = over_the_wire(sent)
    assert type(got) is kind
    assert (got.code, got.reason, got.message, got.metadata) == (sent.code, sent.reason, sent.message, sent.metadata)


def test_field_and_retry_arrive():
    got = over_the_wire(errors.InvalidField("messages[0]", "has no role"))
    assert (got.field, got.description) == ("messages[0]", "has no role")
    assert over_the_wire(errors.QueueFull("full", retry_after=1.5)).retry_after == 1.5
    assert over_the_wire(errors.QueueFull("full")).retry_after is None


def test_the_prompt_and_the_context_are_both_named():
    error = over_the_wire(errors.ContextExceeded(700, 512))
    assert error.metadata == {"prompt_tokens": "700", "context_tokens": "512"}
    assert "700" in error.message
    assert "512" in error.message


@pytest.mark.parametrize(
    "sent",
    [
        errors.AmbiguousName("x" * 5000, metadata={"candidates": ", ".join(f"{n}" + "m" * 250 for n in range(5))}),
        errors.AmbiguousProvider("x" * 5000, metadata={"providers": ", ".join(f"provider-{n:03}" for n in range(500))}),
        errors.InvalidField("field" * 100, "must be one of " + "n" * 5000),
        errors.RateLimited("x" * 5000, retry_after=3.5, metadata={f"key-{n}": "é" * 500 for n in range(9)}),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_that_has_too_much_to_say_arrives_as_itself(sent):
    assert len(errors.to_status(sent).SerializeToString()) <= 2048
    got = over_the_wire(sent)
    assert type(got) is type(sent)
    assert got.metadata.keys() == sent.metadata.keys()
    for key, value in got.metadata.items():
        assert value
        assert sent.metadata[key].startswith(value.removesuffix("..."))
    if isinstance(sent, errors.InvalidField):
        assert (got.field[:10], got.description[:10]) == (sent.field[:10], sent.description[:10])
    if isinstance(sent, errors.RateLimited):
        assert got.retry_after == 3.5


@given(st.text(), st.dictionaries(st.text(max_size=50), st.text(max_size=500), max_size=20))
def test_any_error_stays_under_2_kib(message, metadata):
    sent = errors.NotServing(message, metadata=metadata)
    status = errors.to_status(sent)
    assert len(status.message.encode()) <= errors.MESSAGE_LIMIT
    assert len(status.SerializeToString()) <= 2048
    status.message.encode().decode()
    assert type(over_the_wire(sent)) is errors.NotServing


def test_a_long_message_is_cut_between_characters():
    status = errors.to_status(errors.NotServing("ä" * 5000))
    assert status.message.endswith("ä...")


def test_a_strangers_status_keeps_its_code():
    info = error_details_pb2.ErrorInfo(reason="RESOURCE_EXISTS", domain="elsewhere")
    status = errors.to_status(errors.NotFound("x"))
    del status.details[:]
    status.details.add().Pack(info)
    trailers = grpc.aio.Metadata(*errors.trailers(status))
    call = grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), trailers, details="x")
    assert type(errors.from_rpc_error(call)) is errors.NotFound


def test_unreadable_details_are_no_second_error():
    trailers = grpc.aio.Metadata((errors.DETAILS_KEY, b"\xff\xff"))
    call = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), trailers, details="gone")
    assert type(errors.from_rpc_error(call)) is errors.Unavailable
