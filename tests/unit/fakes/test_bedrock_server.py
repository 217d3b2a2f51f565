"""The fake of Amazon Bedrock answers boto3, Amazon's own client, as Amazon does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EventStreamError
from hypothesis import given, strategies as st

from tests.fakes import eventstream
from tests.fakes.bedrock_models import CLAUDE, COHERE, LLAMA, LLAMA_32, TITAN
from tests.fakes.bedrock_server import OWN, Account, BedrockServer
from tests.fakes.http_server import Reply

[(KEY_ID, OWNER)] = OWN.items()
PROFILE = f"us.{CLAUDE}"
HELLO = [{"role": "user", "content": [{"text": "say Hello there!"}]}]
WEATHER = {
    "tools": [
        {
            "toolSpec": {
                "name": "weather",
                "inputSchema": {"json": {"type": "object", "properties": {"city": {"type": "string"}}}},
            }
        }
    ]
}


@pytest.fixture
async def server() -> AsyncGenerator[BedrockServer]:
    async with BedrockServer() as server:
        yield server


class SDK:
    """boto3, asked in a thread."""

    def __init__(self, server: BedrockServer, service: str = "bedrock-runtime", **credentials: str | None) -> None:
        keys = {"aws_access_key_id": KEY_ID, "aws_secret_access_key": OWNER.secret, **credentials}
        config = Config(retries={"total_max_attempts": 1}, signature_version="v4")
        session = boto3.session.Session(region_name="us-east-1", **keys)
        self._client = session.client(service, endpoint_url=server.root, config=config)

    async def __call__(self, ask: Callable[[Any], Any]) -> Any:
        async with asyncio.timeout(20):
            return await asyncio.to_thread(ask, self._client)


async def refused(sdk: SDK, ask: Callable[[Any], Any]) -> tuple[str, int, str]:
    with pytest.raises(ClientError) as caught:
        await sdk(ask)
    response = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Message"]


async def test_it_converses(server: BedrockServer) -> None:
    answer = await SDK(server)(lambda api: api.converse(modelId=PROFILE, messages=HELLO))
    assert answer["output"] == {"message": {"role": "assistant", "content": [{"text": "Hello there!"}]}}
    assert answer["stopReason"] == "end_turn"
    assert answer["usage"] == {"inputTokens": 5, "outputTokens": 4, "totalTokens": 9}
    assert [(said.role, said.text) for said in server.asked[0].messages] == [("user", "say Hello there!")]


async def test_it_streams(server: BedrockServer) -> None:
    events = await SDK(server)(lambda api: list(api.converse_stream(modelId=PROFILE, messages=HELLO)["stream"]))
    assert [next(iter(event)) for event in events] == [
        "messageStart",
        *["contentBlockDelta"] * 4,
        "contentBlockStop",
        "messageStop",
        "metadata",
    ]
    said = [event["contentBlockDelta"]["delta"]["text"] for event in events[1:5]]
    assert said == ["Hel", "lo ", "the", "re!"]
    assert events[-1]["metadata"]["usage"]["inputTokens"] == 5


async def test_it_calls_tools(server: BedrockServer) -> None:
    def ask(api: Any) -> Any:
        message = {"role": "user", "content": [{"text": "call weather"}]}
        return api.converse(modelId=PROFILE, messages=[message], toolConfig=WEATHER)

    answer = await SDK(server)(ask)
    called = {"toolUseId": "call-0", "name": "weather", "input": {"city": "Oslo"}}
    assert answer["output"]["message"]["content"] == [{"toolUse": called}]
    assert answer["stopReason"] == "tool_use"


async def test_it_streams_tool_calls(server: BedrockServer) -> None:
    def ask(api: Any) -> Any:
        message = {"role": "user", "content": [{"text": "call weather"}]}
        return list(api.converse_stream(modelId=PROFILE, messages=[message], toolConfig=WEATHER)["stream"])

    events = await SDK(server)(ask)
    [start] = [event["contentBlockStart"] for event in events if "contentBlockStart" in event]
    assert start["start"] == {"toolUse": {"toolUseId": "call-0", "name": "weather"}}
    deltas = [event["contentBlockDelta"]["delta"] for event in events if "contentBlockDelta" in event]
    assert json.loads("".join(delta["toolUse"]["input"] for delta in deltas)) == {"city": "Oslo"}
    assert {"messageStop": {"stopReason": "tool_use"}} in events


async def test_it_reads_results_of_tools_and_pictures(server: BedrockServer) -> None:
    use = {"toolUseId": "call-0", "name": "weather", "input": {"city": "Oslo"}}
    messages = [
        *HELLO,
        {"role": "assistant", "content": [{"toolUse": use}]},
        {"role": "user", "content": [{"toolResult": {"toolUseId": "call-0", "content": [{"text": "rain"}]}}]},
    ]
    sdk = SDK(server)
    answer = await sdk(lambda api: api.converse(modelId=PROFILE, messages=messages, toolConfig=WEATHER))
    assert answer["output"]["message"]["content"] == [{"text": "the tool says rain"}]
    picture = [{"text": "what?"}, {"image": {"format": "png", "source": {"bytes": b"12345"}}}]
    answer = await sdk(lambda api: api.converse(modelId=PROFILE, messages=[{"role": "user", "content": picture}]))
    assert answer["output"]["message"]["content"] == [{"text": "a picture of 5 bytes"}]


async def test_it_follows_a_schema(server: BedrockServer) -> None:
    schema = json.dumps({"type": "object", "properties": {"n": {"type": "integer"}}})
    shape = {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": {"schema": schema}}}}
    answer = await SDK(server)(lambda api: api.converse(modelId=PROFILE, messages=HELLO, outputConfig=shape))
    assert answer["output"]["message"]["content"] == [{"text": '{"n": 42}'}]


async def test_it_invokes_a_llama_model(server: BedrockServer) -> None:
    body = json.dumps({"prompt": "say Hello there!", "max_gen_len": 8})
    sdk = SDK(server)
    answer = await sdk(lambda api: json.load(api.invoke_model(modelId=LLAMA, body=body)["body"]))
    assert answer == {
        "generation": "Hello there!",
        "prompt_token_count": 5,
        "generation_token_count": 4,
        "stop_reason": "stop",
    }
    events = await sdk(lambda api: list(api.invoke_model_with_response_stream(modelId=LLAMA, body=body)["body"]))
    pieces = [json.loads(event["chunk"]["bytes"]) for event in events]
    assert [piece["generation"] for piece in pieces] == ["Hel", "lo ", "the", "re!", ""]
    assert [piece["prompt_token_count"] for piece in pieces] == [5, None, None, None, None]
    assert pieces[-1]["stop_reason"] == "stop"


async def test_it_embeds(server: BedrockServer) -> None:
    sdk = SDK(server)
    titan = await sdk(lambda api: json.load(api.invoke_model(modelId=TITAN, body='{"inputText": "a cat"}')["body"]))
    assert titan == {"embedding": server.model.embed("a cat"), "inputTextTokenCount": 4}
    body = json.dumps({"texts": ["a cat", "a dog"], "input_type": "search_document"})
    cohere = await sdk(lambda api: api.invoke_model(modelId=COHERE, body=body))
    assert json.load(cohere["body"])["embeddings"] == [server.model.embed("a cat"), server.model.embed("a dog")]
    assert cohere["ResponseMetadata"]["HTTPHeaders"]["x-amzn-bedrock-input-token-count"] == "8"


async def test_it_lists_models_and_profiles(server: BedrockServer) -> None:
    server.page_size = 2
    sdk = SDK(server, "bedrock")
    found = await sdk(lambda api: api.list_foundation_models(byInferenceType="ON_DEMAND")["modelSummaries"])
    assert {LLAMA, TITAN, COHERE} <= {model["modelId"] for model in found}
    assert CLAUDE not in {model["modelId"] for model in found}

    def profiles(api: Any) -> Any:
        pages = api.get_paginator("list_inference_profiles").paginate(typeEquals="SYSTEM_DEFINED")
        return [profile["inferenceProfileId"] for page in pages for profile in page["inferenceProfileSummaries"]]

    assert await sdk(profiles) == [PROFILE, f"global.{CLAUDE}", f"us.{LLAMA}", f"us.{LLAMA_32}"]
    [own] = (await sdk(lambda api: api.list_inference_profiles(typeEquals="APPLICATION")))["inferenceProfileSummaries"]
    answer = await SDK(server)(lambda api: api.converse(modelId=own["inferenceProfileArn"], messages=HELLO))
    assert answer["output"]["message"]["content"] == [{"text": "Hello there!"}]


# What it refuses


async def test_it_checks_signatures(server: BedrockServer) -> None:
    def ask(api: Any) -> Any:
        return api.converse(modelId=PROFILE, messages=HELLO)

    server.accounts["ASIATEMPORARYEXAMPLE"] = Account("secret", token="a-token")
    wrong = SDK(server, aws_secret_access_key="not-the-secret")
    stranger = SDK(server, aws_access_key_id="AKIASTRANGEREXAMPLE0")
    tokenless = SDK(server, aws_access_key_id="ASIATEMPORARYEXAMPLE", aws_secret_access_key="secret")
    assert (await refused(wrong, ask))[:2] == ("InvalidSignatureException", 403)
    assert (await refused(stranger, ask))[:2] == ("UnrecognizedClientException", 403)
    assert (await refused(tokenless, ask))[:2] == ("UnrecognizedClientException", 403)
    assert server.asked == server.signed == []
    keys = {"aws_access_key_id": "ASIATEMPORARYEXAMPLE", "aws_secret_access_key": "secret"}
    await SDK(server, **keys, aws_session_token="a-token")(ask)
    assert [(signed.key_id, signed.region) for signed in server.signed] == [("ASIATEMPORARYEXAMPLE", "us-east-1")]


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ({"modelId": "no.such-model"}, "The provided model identifier is invalid"),
        ({"modelId": CLAUDE}, "with on-demand throughput"),
        ({"modelId": TITAN}, "doesn't support the model"),
        ({"modelId": LLAMA, "inferenceConfig": {"maxTokens": 4096}}, "exceeds the model limit of 2048"),
        ({"inferenceConfig": {"temperature": 1.5}}, "failed to satisfy constraint"),
        ({"messages": [*HELLO, *HELLO]}, "must alternate between user and assistant roles"),
        ({"messages": [{"role": "assistant", "content": [{"text": "hi"}]}]}, "must start with a user message"),
        ({"messages": [{"role": "user", "content": [{"text": " "}]}]}, "is blank"),
        ({"messages": [{"role": "user", "content": []}]}, "is empty"),
        (
            {"messages": [{"role": "user", "content": [{"text": "word " * 600}]}]},
            "prompt is too long: 602 tokens > 512",
        ),
        ({"modelId": LLAMA, "toolConfig": {**WEATHER, "toolChoice": {"any": {}}}}, "toolChoice.any field"),
        (
            {
                "messages": [
                    *HELLO,
                    {
                        "role": "assistant",
                        "content": [{"toolUse": {"toolUseId": "call-0", "name": "weather", "input": {}}}],
                    },
                    {"role": "user", "content": [{"toolResult": {"toolUseId": "call-0", "content": [{"text": "a"}]}}]},
                ]
            },
            "The toolConfig field must be defined",
        ),
    ],
)
async def test_it_refuses_what_bedrock_refuses(server: BedrockServer, asked: dict[str, Any], problem: str) -> None:
    request = {"modelId": PROFILE, "messages": HELLO, **asked}
    code, status, text = await refused(SDK(server), lambda api: api.converse(**request))
    assert (code, status) == ("ValidationException", 400)
    assert problem in text


async def test_a_llama_model_does_not_stream_with_tools(server: BedrockServer) -> None:
    sdk = SDK(server)
    code, _, text = await refused(
        sdk, lambda api: api.converse_stream(modelId=LLAMA, messages=HELLO, toolConfig=WEATHER)
    )
    assert (code, text) == ("ValidationException", "This model doesn't support tool use in streaming mode.")
    assert await sdk(lambda api: api.converse(modelId=LLAMA, messages=HELLO, toolConfig=WEATHER))


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "ValidationException"),
        (403, "AccessDeniedException"),
        (404, "ResourceNotFoundException"),
        (429, "ThrottlingException"),
        (500, "InternalServerException"),
        (503, "ServiceUnavailableException"),
    ],
)
async def test_it_refuses_when_it_is_told_to(server: BedrockServer, status: int, code: str) -> None:
    server.reply = server.refusal(status, "7")
    with pytest.raises(ClientError) as caught:
        await SDK(server)(lambda api: api.converse(modelId=PROFILE, messages=HELLO))
    assert caught.value.response["Error"]["Code"] == code
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert caught.value.response["ResponseMetadata"]["HTTPHeaders"]["retry-after"] == "7"


async def test_it_fails_in_mid_stream(server: BedrockServer) -> None:
    for failure, code in (
        (eventstream.exception("throttlingException", "slow down"), "throttlingException"),
        (eventstream.error("InternalFailure", "slow down"), "InternalFailure"),
    ):
        server.reply = Reply([server.said("Hel"), failure], streamed=True, headers={"Content-Type": server.stream_type})
        with pytest.raises(EventStreamError, match="slow down") as caught:
            await SDK(server)(lambda api: list(api.converse_stream(modelId=PROFILE, messages=HELLO)["stream"]))
        assert caught.value.response["Error"]["Code"] == code


@given(
    st.lists(st.tuples(st.text(min_size=1, max_size=9), st.dictionaries(st.text(), st.text())), max_size=5),
    st.integers(1, 50),
)
def test_botocore_reads_what_is_framed_here(events: list[tuple[str, dict[str, str]]], size: int) -> None:
    from botocore.eventstream import EventStreamBuffer

    written = b"".join(eventstream.event(kind, body) for kind, body in events)
    buffer = EventStreamBuffer()
    found = []
    for at in range(0, len(written), size):
        buffer.add_data(written[at : at + size])
        found += [(message.headers[":event-type"], json.loads(message.payload)) for message in buffer]
    assert found == events
