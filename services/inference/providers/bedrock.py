"""remote::bedrock: models on Amazon Bedrock, by boto3, in threads of its own.

Chat goes by Converse, whatever the model. Plain text is continued by Llama models; vectors are made by Titan's and
Cohere's. Which models there are depends on the account and the region: AWS is asked where the server's own credentials
have the right to, and a table stands in where they have not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Annotated, Any, ClassVar, Final, Literal, Self

import botocore.session
from botocore.exceptions import BotoCoreError
from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator
from pydantic_core import from_json

from services.inference import tables
from services.inference.bedrock import answer, embedding, llama, request as body
from services.inference.bedrock.catalog import Catalog
from services.inference.bedrock.clients import Clients, Settings
from services.inference.bedrock.credentials import Account, Credential, Region, is_region, sent
from services.inference.bedrock.errors import failure, streams_no_tools
from services.inference.bedrock.framing import EventDecoder
from services.inference.bedrock.listing import TIMEOUT, Listing
from services.inference.bedrock.runtime import Question, Runtime
from services.inference.bedrock.stream import LAST, ConverseFold, told
from services.inference.bedrock.threads import Threads
from services.inference.remote.errors import sensible
from services.inference.remote.keys import OwnKey
from services.inference.remote.streams import Chunk, Fold, Reading, opened
from services.inference.remote.urls import Url, host_of
from stackmesh.config import ConfigError, Frozen
from stackmesh.errors import Unsupported
from stackmesh.inference.v1 import inference_service_pb2 as pb
from stackmesh.providers import Wanted

_LISTERS: Final = 2
"""Threads that list models, so that no list waits for those who generate."""
_EMBEDDING_AT_ONCE: Final = 8
"""Requests at a time for one call's texts."""


def _or_none(value: object) -> object:
    return None if value == "" else value


class BedrockConfig(Frozen):
    region_name: Annotated[Region | None, BeforeValidator(_or_none)] = None
    """The region, for example us-east-1. Absent: as boto3 finds it (AWS_DEFAULT_REGION, the profile)."""
    profile_name: Annotated[str | None, BeforeValidator(_or_none)] = None
    """A profile of ~/.aws/config."""
    aws_access_key_id: OwnKey = None
    """With aws_secret_access_key, the server's own credentials. Absent: as boto3 finds them (environment, files,
    roles). A caller's own, in the provider data, come before them."""
    aws_secret_access_key: OwnKey = None
    aws_session_token: OwnKey = None
    """Of temporary credentials."""
    endpoint_url: Url | None = None
    """Where bedrock-runtime is, if not in the region's usual place: a VPC endpoint."""
    control_endpoint_url: Url | None = None
    """The same of the service `bedrock`, which lists models."""
    list_models: bool = True
    """Whether AWS is asked which models there are. false: the service `bedrock` cannot be reached from here; a table
    and what is registered take the place of the list."""
    max_tokens: PositiveInt | None = None
    """For requests that set none. Absent: the model's own limit."""
    connect_timeout: PositiveFloat = 5.0
    """Seconds to connect, or to wait for a connection to become free."""
    read_timeout: PositiveFloat = 60.0
    """Seconds of silence, before the first token or between two. What is not streamed is silent to its end."""
    max_connections: Annotated[int, Field(ge=1, le=1024)] = 64
    """Calls at a time, each of which has a thread; more wait for `connect_timeout`."""
    total_max_attempts: Annotated[int, Field(ge=1, le=10)] = 1
    """How often a request is sent at most, when it is throttled or the service fails. Between attempts boto3 sleeps: a
    call that is cancelled then leaves its thread when the sleep is over."""
    retry_mode: Literal["standard", "adaptive", "legacy"] = "standard"
    """How boto3 tries again."""
    max_clients: PositiveInt = 64
    """boto3's clients that are kept, one or two a credential and region. Each has 0.1 MB."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        parts = (self.aws_access_key_id, self.aws_secret_access_key)
        if None in parts and any(part is not None for part in (*parts, self.aws_session_token)):
            raise ValueError("aws_access_key_id and aws_secret_access_key belong together: set both, or neither")
        if self.profile_name is not None and self.aws_access_key_id is not None:
            raise ValueError("profile_name and aws_access_key_id are two credentials: set one of them")
        return self

    def credential(self, region: str) -> Credential | None:
        """The configured one."""
        key_id, key, token = self.aws_access_key_id, self.aws_secret_access_key, self.aws_session_token
        if key_id is None or key is None:
            return None
        session_token = token.get_secret_value() if token is not None else None
        return Credential(key_id.get_secret_value(), key.get_secret_value(), session_token, region)


class Bedrock:
    Config: ClassVar[type[Frozen]] = BedrockConfig

    _runtime: Runtime
    _listing: Listing
    _region: str
    _own: Account
    _close: AsyncExitStack

    def __init__(self, config: BedrockConfig) -> None:
        self._config = config
        self._table = tables.aliases("bedrock")
        self._loaded: set[str] = set()
        self._whole_tools: set[str] = set()
        """Models that do not stream an answer when there are tools."""

    async def __aenter__(self) -> Self:
        config = self._config
        session = botocore.session.Session(profile=config.profile_name)
        self._region = region = await asyncio.to_thread(_region, config, session)
        self._own = Account(config.credential(region), self._where(region))
        async with AsyncExitStack() as stack:
            clients = await stack.enter_async_context(Clients(_settings(config, region), session))
            threads = Threads(config.max_connections, config.connect_timeout, "bedrock")
            listers = Threads(_LISTERS, TIMEOUT, "bedrock-list")
            try:
                await stack.enter_async_context(threads)
                await stack.enter_async_context(listers)
            except RuntimeError:
                raise ConfigError(
                    f"remote::bedrock: {config.max_connections} threads cannot be started; set max_connections lower"
                ) from None
            self._runtime = Runtime("bedrock-runtime", clients, threads)
            asking = Runtime("bedrock", clients, listers) if config.list_models else None
            self._listing = Listing(asking, Runtime("bedrock-runtime", clients, listers), self._own, region)
            self._close = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._close.aclose()

    # Names

    async def resolve(self, wanted: Wanted) -> str:
        account = self._account()
        catalog = await self._catalog(account)
        return catalog.resolve(wanted.provider_resource_id, self._table, self._loaded, account.where)

    async def load(self, wanted: Wanted) -> None:
        """Nothing has to be loaded. It is remembered: not all that can be called is listed."""
        self._loaded.add(wanted.provider_resource_id)

    async def unload(self, provider_resource_id: str) -> None:
        self._loaded.discard(provider_resource_id)

    async def list_served(self) -> Sequence[str]:
        return (await self._listing.own()).names(self._table, self._loaded)

    async def _catalog(self, account: Account) -> Catalog:
        if account is self._own or account.credential is None:
            return await self._listing.own()
        return await self._listing.of(account)

    # Chat

    async def chat_completion(self, request: pb.ChatCompletionRequest) -> pb.ChatCompletionResponse:
        return await self._converse(self._account(), self._chat(request))

    async def stream_chat_completion(
        self, request: pb.ChatCompletionRequest
    ) -> AsyncGenerator[pb.StreamChatCompletionResponse]:
        account, asked = self._account(), self._chat(request)
        if not ("toolConfig" in asked and request.model_id in self._whole_tools):
            fold = ConverseFold(_stops(asked), account.where)
            try:
                return await self._stream(account, lambda api: api.converse_stream(**asked), EventDecoder(LAST), fold)
            except Unsupported as error:
                if not streams_no_tools(error):
                    raise
                self._whole_tools.add(request.model_id)
        return _each(told(await self._converse(account, asked)))

    def _chat(self, request: pb.ChatCompletionRequest) -> body.Body:
        return body.chat(request, self._model(request.model_id), self._config.max_tokens)

    async def _converse(self, account: Account, asked: body.Body) -> pb.ChatCompletionResponse:
        return await self._runtime.ask(
            account, lambda api: answer.chat(api.converse(**asked), _stops(asked), account.where)
        )

    # Plain text

    async def completion(self, request: pb.CompletionRequest) -> pb.CompletionResponse:
        if request.sampling_params.stop:
            return await _joined(await self.stream_completion(request))  # and not generated beyond
        account, asked = self._account(), self._completion(request)
        return await self._runtime.ask(
            account, lambda api: llama.answered(_invoked(api, asked, account.where)[0], account.where)
        )

    async def stream_completion(self, request: pb.CompletionRequest) -> AsyncGenerator[pb.StreamCompletionResponse]:
        account, asked, decoder = self._account(), self._completion(request), EventDecoder()
        fold = llama.LlamaFold(request.sampling_params.stop, decoder, account.where)
        return await self._stream(account, lambda api: api.invoke_model_with_response_stream(**asked), decoder, fold)

    def _completion(self, request: pb.CompletionRequest) -> body.Body:
        return llama.completion(request, self._model(request.model_id), self._config.max_tokens)

    # Vectors

    async def embeddings(self, request: pb.EmbeddingsRequest) -> pb.EmbeddingsResponse:
        account, form = self._account(), embedding.form_of(request, self._model(request.model_id))
        at_once = asyncio.Semaphore(min(_EMBEDDING_AT_ONCE, self._config.max_connections))

        async def vectors(said: Sequence[str]) -> embedding.Vectors:
            asked = llama.invocation(request.model_id, form.body(said))

            def question(api: Any) -> embedding.Vectors:
                found, headers = _invoked(api, asked, account.where)
                with sensible(account.where):
                    return form.vectors(found, headers)

            async with at_once:
                return await self._runtime.ask(account, question)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(vectors(said)) for said in embedding.batches(request, form)]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return embedding.joined([task.result() for task in tasks])

    # What they share

    def _account(self) -> Account:
        """The caller's if he sent credentials, else the server's own."""
        credential = sent(self._region)
        return self._own if credential is None else Account(credential, self._where(credential.region))

    def _where(self, region: str) -> str:
        url = self._config.endpoint_url
        return host_of(url) if url is not None else f"Bedrock in {region}"

    def _model(self, name: str) -> str:
        """The id of the model behind a name, as far as it is known."""
        return self._listing.last.model_of(name)

    async def _stream(
        self, account: Account, question: Question[object], decoder: EventDecoder, fold: Fold[Chunk]
    ) -> AsyncGenerator[Chunk]:
        reading = Reading(decoder, fold, lambda event, _: failure(event, account))
        return await opened(self._runtime.stream(account, question), account.where, None, reading)


def _region(config: BedrockConfig, session: Any) -> str:
    """Raises ConfigError if there is none."""
    try:
        region = config.region_name or session.get_config_variable("region")
    except BotoCoreError as error:  # of files that are the user's own: it shows a name or a path
        raise ConfigError(f"remote::bedrock: {error}") from None
    if region is None or not is_region(region):
        raise ConfigError("remote::bedrock: set region_name, or AWS_DEFAULT_REGION, for example to us-east-1")
    return region


def _settings(config: BedrockConfig, region: str) -> Settings:
    return Settings(
        region,
        endpoints={"bedrock-runtime": config.endpoint_url, "bedrock": config.control_endpoint_url},
        options={
            "bedrock-runtime": {
                "connect_timeout": config.connect_timeout,
                "read_timeout": config.read_timeout,
                "max_pool_connections": config.max_connections,
                "retries": {"total_max_attempts": config.total_max_attempts, "mode": config.retry_mode},
            },
            "bedrock": {
                "connect_timeout": min(TIMEOUT, config.connect_timeout),
                "read_timeout": min(TIMEOUT, config.read_timeout),
                "max_pool_connections": _LISTERS,
                "retries": {"total_max_attempts": 1},
            },
        },
        limit=config.max_clients,
    )


def _stops(asked: body.Body) -> Sequence[str]:
    return asked.get("inferenceConfig", {}).get("stopSequences", ())


def _invoked(api: Any, asked: body.Body, where: str) -> tuple[Any, Any]:
    """In a thread: what InvokeModel answered, and the headers of that."""
    response = api.invoke_model(**asked)
    raw = response["body"].read()
    with sensible(where):
        return from_json(raw), response["ResponseMetadata"]["HTTPHeaders"]


async def _each(chunks: Iterable[Chunk]) -> AsyncGenerator[Chunk]:
    for chunk in chunks:
        yield chunk


async def _joined(stream: AsyncGenerator[pb.StreamCompletionResponse]) -> pb.CompletionResponse:
    async with aclosing(stream):
        messages = [message async for message in stream]
    last = messages[-1]
    text = "".join(message.delta for message in messages)
    return pb.CompletionResponse(content=text, stop_reason=last.stop_reason, usage=last.usage)
