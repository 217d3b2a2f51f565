"""Amazon Bedrock: its services `bedrock-runtime` and `bedrock` at one address, before a ToyModel.

As strict as AWS is: signatures are checked, models do what their documentation says that they do (bedrock_models.py),
and a conversation has to have the form that Converse wants. Its streams are framed by hand (eventstream.py).

    server.accounts["AKIDALICE"] = Account("secret", token="...")
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote

import pytest

from tests.fakes import eventstream
from tests.fakes.bedrock_conversation import Body, Refused, converse, invalid
from tests.fakes.bedrock_models import MODELS, Model
from tests.fakes.documented import Documented
from tests.fakes.http_server import HttpServer, Piece, Received, Reply, whole
from tests.fakes.sigv4 import Signature, canonical, is_right, signature
from tests.fakes.toy_model import Answer, Asked, BadSchema, Call, Said, TooLong, ToyModel

ARN = "arn:aws:bedrock:us-east-1:123456789012"
PADDING = "abcdefghijklmnopqrstuvwxyzABC"
"""AWS adds a field `p` of some length to each event, so that lengths tell less about what is said."""
LIMITS = {"titan": 8192, "cohere": 2048}


@dataclass(frozen=True)
class Account:
    """Who may call."""

    secret: str
    token: str | None = None
    """The session token, if the credentials are temporary."""
    lists: bool = True
    """Whether it may list models."""


OWN = {"AKIDEXAMPLEEXAMPLE00": Account("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")}


def without_credentials(environment: pytest.MonkeyPatch, folder: Path) -> None:
    """A machine on which boto3 finds nothing."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_DEFAULT_REGION")
    for name in names:
        environment.delenv(name, raising=False)
    environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
    environment.setenv("AWS_CONFIG_FILE", str(folder / "config"))
    environment.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "credentials"))


@dataclass
class Signed:
    """Whose a request was."""

    key_id: str
    region: str
    path: str
    token: str | None


@dataclass
class Application:
    """An application inference profile."""

    id: str
    model: str

    @property
    def arn(self) -> str:
        return f"{ARN}:application-inference-profile/{self.id}"


class BedrockServer(HttpServer):
    """Satisfies `tests/fakes/backend.Backend`."""

    stream_type: ClassVar[str] = eventstream.CONTENT_TYPE

    def __init__(self, *, region: str = "us-east-1", port: int = 0, model: ToyModel | None = None) -> None:
        super().__init__(port=port)
        self.region = region
        self.accounts: dict[str, Account] = dict(OWN)
        """By access key id."""
        self.models: dict[str, Model] = dict(MODELS)
        self.applications = [Application("a1b2c3d4e5f6", "meta.llama3-1-8b-instruct-v1:0")]
        self.page_size = 1000
        self.model = model or ToyModel()
        self.asked: list[Asked] = []
        self.signed: list[Signed] = []
        """Whose each request was that was signed as it should."""
        self.documented = Documented.of("bedrock")

    # Who asks

    def answer(self, request: Received) -> Reply:
        try:
            account = self._account(request)
            path, _, query = request.path.partition("?")
            match path:
                case "/foundation-models":
                    return self._listed(account, "bedrock:ListFoundationModels", self._foundation_models(query))
                case "/inference-profiles":
                    return self._listed(account, "bedrock:ListInferenceProfiles", self._inference_profiles(query))
                case _:
                    return super().answer(request)
        except Refused as refused:
            return self.documented.refusal(refused.name, **refused.values)

    def _account(self, request: Received) -> Account:
        signed = signature(request)
        if signed is None:
            raise Refused("unsigned")
        account = self.accounts.get(signed.key_id)
        if account is None:
            raise Refused("401")
        if not is_right(request, signed, account.secret) or signed.service != "bedrock":
            raise Refused("wrong_signature", canonical=canonical(request, signed))
        self._check_token(request, signed, account)
        token = request.headers.get("x-amz-security-token")
        self.signed.append(Signed(signed.key_id, signed.region, request.path, token))
        return account

    @staticmethod
    def _check_token(request: Received, signed: Signature, account: Account) -> None:
        if request.headers.get("x-amz-security-token") != account.token:
            raise Refused("401")
        if account.token is not None and "x-amz-security-token" not in signed.headers:
            raise Refused("401")

    # What there is

    def _listed(self, account: Account, action: str, found: Body) -> Reply:
        if not account.lists:
            raise Refused("listing_denied", action=action)
        return whole(found)

    def _foundation_models(self, query: str) -> Body:
        kind = parse_qs(query).get("byInferenceType", [""])[0]
        return {
            "modelSummaries": [
                {
                    "modelArn": f"arn:aws:bedrock:{self.region}::foundation-model/{name}",
                    "modelId": name,
                    "outputModalities": [
                        {"titan": "EMBEDDING", "cohere": "EMBEDDING", "image": "IMAGE"}.get(model.family, "TEXT")
                    ],
                    "inferenceTypesSupported": ["ON_DEMAND" if model.on_demand else "INFERENCE_PROFILE"],
                    "modelLifecycle": {"status": "ACTIVE"},
                }
                for name, model in self.models.items()
                if model.on_demand or kind != "ON_DEMAND"
            ]
        }

    def _inference_profiles(self, query: str) -> Body:
        asked = parse_qs(query)
        profiles = [each for each in self._profiles() if each["type"] == asked.get("type", ["SYSTEM_DEFINED"])[0]]
        begin = int(asked.get("nextToken", ["0"])[0])
        end = begin + min(self.page_size, int(asked.get("maxResults", ["1000"])[0]))
        more = {"nextToken": str(end)} if end < len(profiles) else {}
        return {"inferenceProfileSummaries": profiles[begin:end], **more}

    def _profiles(self) -> Sequence[Body]:
        """Those that can be called from the region."""
        near = {self.region.partition("-")[0].replace("ap", "apac"), "global"}
        system = [
            self._profile(f"{geography}.{name}", f"{ARN}:inference-profile/{geography}.{name}", name, "SYSTEM_DEFINED")
            for name, model in self.models.items()
            for geography in model.profiles
            if geography in near
        ]
        return [*system, *(self._profile(each.id, each.arn, each.model, "APPLICATION") for each in self.applications)]

    @staticmethod
    def _profile(name: str, arn: str, model: str, kind: str) -> Body:
        regions = ("us-east-1", "us-west-2")
        return {
            "inferenceProfileName": "a profile",
            "inferenceProfileArn": arn,
            "inferenceProfileId": name,
            "models": [{"modelArn": f"arn:aws:bedrock:{region}::foundation-model/{model}"} for region in regions],
            "status": "ACTIVE",
            "type": kind,
        }

    def _called(self, name: str) -> Model:
        """The model that is called so."""
        for profile in self._profiles():
            if name in (profile["inferenceProfileId"], profile["inferenceProfileArn"]):
                return self.models[profile["models"][0]["modelArn"].rpartition("/")[2]]
        model = self.models.get(name)
        if model is None:
            raise Refused("not_a_model")
        if not model.on_demand:
            raise Refused("not_on_demand", model=name)
        return model

    # What is asked

    def speak(self, request: Received) -> Reply:
        called = re.fullmatch(r"/model/([^/]+)/([a-z-]+)", request.path)
        speak: Callable[[str, Model, Body], Reply] | None = {
            "converse": self._converse,
            "converse-stream": self._converse_stream,
            "invoke": self._invoke,
            "invoke-with-response-stream": self._invoke_stream,
        }.get(called[2] if called else "")
        if called is None or speak is None:
            return super().speak(request)
        try:
            name = unquote(called[1])
            return speak(name, self._called(name), request.body)
        except Refused as refused:
            return self.documented.refusal(refused.name, **refused.values)
        except (KeyError, TypeError, ValueError) as error:
            return self.documented.refusal("400", problem=repr(error))

    def refusal(self, status: int, retry_after: str | None = None) -> Reply:
        headers = {} if retry_after is None else {"Retry-After": retry_after}
        return self.documented.refusal(status, headers, problem="it is told to")

    def said(self, text: str) -> bytes:
        return eventstream.event(
            "contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": text}, "p": PADDING[: len(text) % 29]}
        )

    def broken(self) -> bytes:
        whole_event = bytearray(self.said("garbage"))
        whole_event[-7] ^= 0x20
        return bytes(whole_event)

    # Converse

    def _conversed(self, name: str, model: Model, body: Body) -> Asked:
        asked = converse(name, model, body)
        self.asked.append(asked)
        return asked

    def _answered(self, asked: Asked, model: Model) -> Answer:
        try:
            return self.model.answer(asked)
        except TooLong as error:
            name = "too_long_llama" if model.family == "llama" else "too_long_claude"
            raise Refused(name, prompt=error.prompt_tokens, context=error.context_tokens) from None
        except BadSchema as error:
            raise invalid(
                f"The model returned the following errors: output_config.format.schema: invalid: {error}"
            ) from None

    def _converse(self, name: str, model: Model, body: Body) -> Reply:
        asked = self._conversed(name, model, body)
        answer = self._answered(asked, model)
        content = [{"text": answer.text}] if answer.text else []
        content += [
            {"toolUse": {"toolUseId": call.call_id, "name": call.name, "input": call.arguments}}
            for call in answer.calls
        ]
        payload = {
            "output": {"message": {"role": "assistant", "content": content}},
            "stopReason": _stop_reason(answer, asked),
            "usage": _usage(answer),
            "metrics": {"latencyMs": 7},
        }
        return self._whole(asked, answer, payload)

    def _converse_stream(self, name: str, model: Model, body: Body) -> Reply:
        if body.get("toolConfig") and model.tools and not model.streams_tools:
            raise invalid("This model doesn't support tool use in streaming mode.")
        asked = self._conversed(name, model, body)
        answer = self._answered(asked, model)
        groups = [[eventstream.event("messageStart", {"role": "assistant", "p": PADDING})]]
        groups += [[self.said(token.text)] for token in answer.tokens]
        if answer.tokens:
            groups.append([eventstream.event("contentBlockStop", {"contentBlockIndex": 0, "p": PADDING})])
        for index, call in enumerate(answer.calls, bool(answer.tokens)):
            groups += _call_events(index, call)
        groups.append([eventstream.event("messageStop", {"stopReason": _stop_reason(answer, asked), "p": PADDING})])
        groups.append(
            [eventstream.event("metadata", {"usage": _usage(answer), "metrics": {"latencyMs": 7}, "p": PADDING})]
        )
        return self._streamed(asked, groups)

    # InvokeModel

    def _invoke(self, name: str, model: Model, body: Body) -> Reply:
        match model.family:
            case "llama":
                asked, answer = self._continued(name, model, body)
                return self._whole(
                    asked,
                    answer,
                    {
                        "generation": answer.text,
                        "prompt_token_count": answer.prompt_tokens,
                        "generation_token_count": answer.completion_tokens,
                        "stop_reason": answer.finish,
                    },
                )
            case "titan":
                _only(body, {"inputText", "dimensions", "normalize", "embeddingTypes"})
                tokens = self._counted(body["inputText"], "titan")
                return whole({"embedding": self.model.embed(body["inputText"]), "inputTextTokenCount": tokens})
            case "cohere":
                return self._cohere(body)
            case _:
                raise Refused("400", problem="not this model")

    def _cohere(self, body: Body) -> Reply:
        _only(body, {"texts", "input_type", "truncate", "embedding_types"})
        if body["input_type"] not in ("search_document", "search_query", "classification", "clustering"):
            raise Refused("400", problem="#/input_type: is not a valid enum value")
        if len(body["texts"]) > 96:
            raise Refused("400", problem=f"#/texts: expected maximum item count: 96, found: {len(body['texts'])}")
        vectors = [self.model.embed(text) for text in body["texts"]]
        answer = whole({"embeddings": vectors, "id": "1", "response_type": "embeddings_floats", "texts": body["texts"]})
        tokens = sum(map(self.model.count, body["texts"]))
        return Reply(answer.pieces, headers={**answer.headers, "X-Amzn-Bedrock-Input-Token-Count": str(tokens)})

    def _counted(self, text: str, family: str) -> int:
        count = self.model.count(text)
        if count > LIMITS[family]:
            raise Refused("too_long_titan", prompt=count, context=LIMITS[family])
        return count

    def _invoke_stream(self, name: str, model: Model, body: Body) -> Reply:
        if model.family != "llama":
            raise invalid("The model is unsupported for streaming.")
        asked, answer = self._continued(name, model, body)
        groups: list[Sequence[bytes]] = []
        for count, token in enumerate(answer.tokens):
            prompt = answer.prompt_tokens if count == 0 else None
            groups.append([_chunk(token.text, prompt, count + 1, None)])
        metrics = {"inputTokenCount": answer.prompt_tokens, "outputTokenCount": answer.completion_tokens}
        last = _chunk(
            "", None, answer.completion_tokens, answer.finish, **{"amazon-bedrock-invocationMetrics": metrics}
        )
        return self._streamed(asked, [*groups, [last]])

    def _continued(self, name: str, model: Model, body: Body) -> tuple[Asked, Answer]:
        _only(body, {"prompt", "max_gen_len", "temperature", "top_p", "images"})
        most = body.get("max_gen_len", 512)
        if most > model.most_tokens:
            raise Refused("400", problem=f"#/max_gen_len: {most} is not less or equal to {model.most_tokens}")
        prompt = [Said("prompt", body["prompt"])]
        asked = Asked(name, prompt, max_tokens=most, temperature=body.get("temperature"))
        self.asked.append(asked)
        return asked, self._answered(asked, model)

    # How answers come

    def _streamed(self, asked: Asked, groups: Sequence[Sequence[bytes]]) -> Reply:
        """Slowly: each group of events is written as one, a while after the one before."""
        between = self.model.seconds_between_tokens(asked)
        pieces: list[Piece] = [self.model.seconds_to_read(asked)]
        for group in groups:
            pieces += [*group, between]
        return Reply(pieces, streamed=True, headers={"Content-Type": self.stream_type})

    def _whole(self, asked: Asked, answer: Answer, payload: Body) -> Reply:
        """After the time that the model takes for all of it."""
        seconds = self.model.seconds_to_read(asked) + len(answer.tokens) * self.model.seconds_between_tokens(asked)
        reply = whole(payload)
        return Reply([seconds, *reply.pieces], headers=reply.headers)


def _call_events(index: int, call: Call) -> Sequence[Sequence[bytes]]:
    """A call: its name, then its arguments in pieces."""
    start = {"toolUse": {"toolUseId": call.call_id, "name": call.name}}
    groups = [[eventstream.event("contentBlockStart", {"contentBlockIndex": index, "start": start, "p": PADDING})]]
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    for at in range(0, len(arguments), 6):
        delta = {"toolUse": {"input": arguments[at : at + 6]}}
        groups.append(
            [eventstream.event("contentBlockDelta", {"contentBlockIndex": index, "delta": delta, "p": PADDING})]
        )
    return [*groups, [eventstream.event("contentBlockStop", {"contentBlockIndex": index, "p": PADDING})]]


def _chunk(text: str, prompt: int | None, count: int, stop_reason: str | None, **more: Any) -> bytes:
    payload = {
        "generation": text,
        "prompt_token_count": prompt,
        "generation_token_count": count,
        "stop_reason": stop_reason,
        **more,
    }
    encoded = b64encode(json.dumps(payload).encode()).decode()
    return eventstream.event("chunk", {"bytes": encoded, "p": PADDING})


def _usage(answer: Answer) -> Body:
    used, made = answer.prompt_tokens, answer.completion_tokens
    return {"inputTokens": used, "outputTokens": made, "totalTokens": used + made}


def _stop_reason(answer: Answer, asked: Asked) -> str:
    if answer.finish != "stop":
        return {"length": "max_tokens", "tool_calls": "tool_use"}[answer.finish]
    return "stop_sequence" if asked.stop else "end_turn"


def _only(body: Body, known: set[str]) -> None:
    for name in body:
        if name not in known:
            raise Refused("400", problem=f"extraneous key [{name}] is not permitted")
