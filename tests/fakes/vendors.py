"""The remote provider types of inference, each with the fake of its vendor's server, and how keys are given to it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from services.inference.providers import KINDS
from tests.fakes.bedrock_models import LLAMA
from tests.fakes.bedrock_server import OWN, Account, BedrockServer
from tests.fakes.http_server import Received
from tests.fakes.sigv4 import signature


@dataclass(frozen=True)
class Vendor:
    provider_type: str
    fake: str
    """`module:Class` of its fake, which satisfies `tests/fakes/backend.Backend`."""
    model: str
    """The provider's own name for the model that the fake serves."""
    config: Callable[[str], Mapping[str, Any]]
    """A configuration without a credential, for a fake at this URL (without a path)."""
    own_key: Callable[[str], Mapping[str, str]]
    """The configuration's part that has the provider's own key."""
    provider_data: Callable[[str], Mapping[str, str]]
    """Those of a caller with this key."""
    credential: Callable[[Received], str]
    """The key that a request came with; empty if it came without."""
    admit: Callable[[Any, str], None] = lambda _server, _key: None
    """Lets its fake, which lets everybody in with a key, know one beforehand."""

    def server(self) -> Any:
        """The fake."""
        return named(self.fake)()

    def provider(self, root: str, **config: Any) -> Any:
        """A provider on a fake at this URL."""
        kind = named(KINDS[self.provider_type])
        return kind(kind.Config(**self.config(root), **config))


def named(name: str) -> Any:
    """What `module:attribute` is."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


[(_OWN_ID, _OWN)] = OWN.items()


def _bearer(received: Received) -> str:
    return received.headers.get("authorization", "").removeprefix("Bearer ")


def _signer(received: Received) -> str:
    signed = signature(received)
    return signed.key_id.removeprefix("AKIA-") if signed is not None else ""


def _aws(key_id: str, secret: str) -> Mapping[str, str]:
    return {"aws_access_key_id": key_id, "aws_secret_access_key": secret}


def _open_account(server: BedrockServer, key: str) -> None:
    server.accounts[f"AKIA-{key}"] = Account(f"secret-of-{key}")


VENDORS: Final = (
    Vendor(
        "remote::vllm",
        "tests.fakes.vllm_server:VLLMServer",
        "fake-model",
        lambda root: {"url": f"{root}/v1"},
        lambda key: {"api_token": key},
        lambda key: {"vllm_api_token": key},
        _bearer,
    ),
    Vendor(
        "remote::ollama",
        "tests.fakes.ollama_server:OllamaServer",
        "llama3.2:1b-instruct-fp16",
        lambda root: {"url": root},
        lambda key: {"api_key": key},
        lambda key: {"ollama_api_key": key},
        _bearer,
    ),
    Vendor(
        "remote::tgi",
        "tests.fakes.tgi_server:TGIServer",
        "meta-llama/Llama-3.1-8B-Instruct",
        lambda root: {"url": root},
        lambda key: {"api_token": key},
        lambda key: {"tgi_api_token": key},
        _bearer,
    ),
    Vendor(
        "remote::together",
        "tests.fakes.together_server:TogetherServer",
        "meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo",
        lambda root: {"url": root},
        lambda key: {"api_key": key},
        lambda key: {"together_api_key": key},
        _bearer,
    ),
    Vendor(
        "remote::fireworks",
        "tests.fakes.fireworks_server:FireworksServer",
        "accounts/fireworks/models/llama-v3p1-8b-instruct",
        lambda root: {"url": root},
        lambda key: {"api_key": key},
        lambda key: {"fireworks_api_key": key},
        _bearer,
    ),
    Vendor(
        "remote::bedrock",
        "tests.fakes.bedrock_server:BedrockServer",
        LLAMA,
        lambda root: {"region_name": "us-east-1", "endpoint_url": root, "control_endpoint_url": root},
        lambda _key: _aws(_OWN_ID, _OWN.secret),
        lambda key: _aws(f"AKIA-{key}", f"secret-of-{key}"),
        _signer,
        _open_account,
    ),
)


def vendor(provider_type: str) -> Vendor:
    return next(each for each in VENDORS if each.provider_type == provider_type)
