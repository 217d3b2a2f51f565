"""Choosing, checking and opening providers."""

import pytest

from services.inference.providers import KINDS
from services.inference.providers.echo import Echo
from stackmesh.config import ConfigError, ProviderConfig
from stackmesh.providers import check_providers, kind_of, open_providers


def echo(provider_id="a", **config):
    return ProviderConfig(provider_id=provider_id, provider_type="inline::echo", config=config)


async def test_opens_what_is_configured():
    async with open_providers([echo("a", models=["x"]), echo("b")], KINDS, "inference") as providers:
        assert list(providers) == ["a", "b"]
        assert await providers["a"].list_served() == ("x",)


def test_an_unknown_type_names_the_known_ones():
    config = ProviderConfig(provider_id="a", provider_type="remote::nope")
    with pytest.raises(ConfigError, match=r"providers\.inference\[0\]\.provider_type: unknown .* inline::echo"):
        check_providers([config], KINDS, "inference")


def test_a_typo_in_a_providers_configuration_has_its_path():
    with pytest.raises(ConfigError, match=r"providers\.inference\[0\]\.config\.model: unknown key; did you"):
        check_providers([echo(model=["x"])], KINDS, "inference")


def test_a_missing_package_names_the_command():
    kinds = {"remote::nope": "services.inference.providers.no_such_module:X"}
    with pytest.raises(ConfigError, match=r"pip install 'stackmesh\[nope\]'"):
        kind_of("remote::nope", kinds, "providers.inference[0]")


class Noted(Echo):
    open = 0

    async def __aenter__(self):
        Noted.open += 1
        return self

    async def __aexit__(self, *exc_info):
        Noted.open -= 1


class Failing(Echo):
    async def __aenter__(self):
        assert Noted.open == 1
        raise ConfigError("no model")


async def test_what_was_opened_is_closed_when_a_later_one_fails():
    kinds = {"inline::noted": f"{__name__}:Noted", "inline::failing": f"{__name__}:Failing"}
    configs = [ProviderConfig(provider_id=k[8:], provider_type=k) for k in kinds]
    with pytest.raises(ConfigError, match="no model"):
        async with open_providers(configs, kinds, "inference"):
            pass
    assert Noted.open == 0
