"""What a name stands for: models, inference profiles, their ARNs, and the aliases of Llama models."""

from __future__ import annotations

import pytest

from services.inference import tables
from services.inference.bedrock.catalog import Catalog
from services.inference.bedrock.families import family_of
from services.inference.bedrock.names import is_arn, is_id, is_near, parted
from stackmesh import names
from stackmesh.errors import AmbiguousName, NotHosted

TABLE = tables.aliases("bedrock")
LLAMA_31, LLAMA_32, LLAMA_33 = (
    "meta.llama3-1-8b-instruct-v1:0",
    "meta.llama3-2-1b-instruct-v1:0",
    "meta.llama3-3-70b-instruct-v1:0",
)
CLAUDE = "anthropic.claude-sonnet-4-5-20250929-v1:0"
ARN = "arn:aws:bedrock:us-east-1:123456789012"
APPLICATION = f"{ARN}:application-inference-profile/a1b2c3d4e5f6"
US = Catalog(
    "us-east-1",
    frozenset({LLAMA_31, "amazon.titan-embed-text-v2:0"}),
    {
        f"us.{LLAMA_31}": LLAMA_31,
        f"us.{LLAMA_32}": LLAMA_32,
        f"us.{LLAMA_33}": LLAMA_33,
        f"us.{CLAUDE}": CLAUDE,
        f"global.{CLAUDE}": CLAUDE,
        "global.cohere.embed-v4:0": "cohere.embed-v4:0",
        APPLICATION: LLAMA_31,
    },
)
UNKNOWN = Catalog("us-east-1")


def resolve(catalog: Catalog, name: str, *loaded: str) -> str:
    return catalog.resolve(name, TABLE, loaded, "Bedrock")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (LLAMA_31, LLAMA_31),
        (f"us.{LLAMA_31}", f"us.{LLAMA_31}"),
        (f"global.{CLAUDE}", f"global.{CLAUDE}"),
        (APPLICATION, APPLICATION),
        (f"{ARN}:provisioned-model/a1b2c3d4e5f6", f"{ARN}:provisioned-model/a1b2c3d4e5f6"),
        (f"{ARN}:inference-profile/us.{LLAMA_32}", f"{ARN}:inference-profile/us.{LLAMA_32}"),
        # on demand comes before a profile
        ("Llama3.1-8B-Instruct", LLAMA_31),
        ("meta-llama/Llama-3.1-8B-Instruct", LLAMA_31),
        # what is to be had through a profile only is that profile, the one that stays near
        (LLAMA_32, f"us.{LLAMA_32}"),
        ("Llama3.2-1B-Instruct", f"us.{LLAMA_32}"),
        ("meta-llama/Llama-3.2-1B-Instruct", f"us.{LLAMA_32}"),
        (CLAUDE, f"us.{CLAUDE}"),
    ],
)
def test_what_a_name_stands_for(name: str, found: str) -> None:
    assert resolve(US, name) == found


@pytest.mark.parametrize("name", ["no-such-model", "x" * 255, "no.such-model", f"eu.{CLAUDE}", "Llama3.1-70B-Instruct"])
def test_what_is_not_there_is_not_hosted_and_what_is_near_is_named(name: str) -> None:
    with pytest.raises(NotHosted, match="Bedrock does not serve"):
        resolve(US, name)


def test_a_prompt_goes_round_the_world_only_if_that_is_asked_for() -> None:
    with pytest.raises(NotHosted, match=r"global\.cohere\.embed-v4:0"):
        resolve(US, "cohere.embed-v4:0")
    assert resolve(US, "global.cohere.embed-v4:0") == "global.cohere.embed-v4:0"


def test_a_model_of_two_geographies_is_ambiguous() -> None:
    tokyo = Catalog("ap-northeast-1", frozenset(), {f"apac.{CLAUDE}": CLAUDE, f"jp.{CLAUDE}": CLAUDE})
    with pytest.raises(AmbiguousName, match=f"apac.{CLAUDE}, jp.{CLAUDE}"):
        resolve(tokyo, CLAUDE)
    mumbai = Catalog("ap-south-1", frozenset(), {f"apac.{CLAUDE}": CLAUDE, f"jp.{CLAUDE}": CLAUDE})
    assert resolve(mumbai, CLAUDE) == f"apac.{CLAUDE}"


def test_a_profile_of_another_geography_does_not_stand_for_its_model() -> None:
    canada = Catalog("ca-central-1", frozenset(), {f"us.{CLAUDE}": CLAUDE})
    with pytest.raises(NotHosted, match=f"us.{CLAUDE}"):
        resolve(canada, CLAUDE)


# Where AWS may not be asked


def test_where_nothing_may_be_listed_the_table_stands_in() -> None:
    assert resolve(UNKNOWN, "Llama3.1-8B-Instruct") == LLAMA_31
    assert resolve(UNKNOWN, "Llama3.2-1B-Instruct") == f"us.{LLAMA_32}"
    assert resolve(Catalog("eu-central-1"), "Llama3.2-1B-Instruct") == f"eu.{LLAMA_32}"
    with pytest.raises(NotHosted):
        resolve(Catalog("sa-east-1"), "Llama3.2-1B-Instruct")
    with pytest.raises(NotHosted, match=LLAMA_31):
        resolve(UNKNOWN, "no-such-model")


def test_where_nothing_may_be_listed_what_may_be_a_name_is_taken_for_one() -> None:
    for name in ("openai.gpt-oss-120b-1:0", f"us.{CLAUDE}", f"eu.{CLAUDE}", APPLICATION):
        assert resolve(UNKNOWN, name) == name
        assert name not in UNKNOWN.names(TABLE, ())
        assert name in UNKNOWN.names(TABLE, {name})


def test_either_list_may_be_missing() -> None:
    models = Catalog("us-east-1", frozenset({LLAMA_31}), None)
    assert resolve(models, f"us.{CLAUDE}") == f"us.{CLAUDE}"
    with pytest.raises(NotHosted):
        resolve(models, "no.such-model")
    profiles = Catalog("us-east-1", None, {f"us.{LLAMA_32}": LLAMA_32})
    assert resolve(profiles, LLAMA_32) == f"us.{LLAMA_32}"
    assert resolve(profiles, "some.model-v1:0") == "some.model-v1:0"
    with pytest.raises(NotHosted):
        resolve(profiles, f"us.{CLAUDE}")


def test_what_is_served_is_what_is_listed_and_the_arns_that_were_loaded() -> None:
    provisioned = f"{ARN}:provisioned-model/a1b2c3d4e5f6"
    served = US.names(TABLE, {provisioned, "no.such-model"})
    assert {LLAMA_31, f"us.{CLAUDE}", APPLICATION, provisioned} <= set(served)
    assert "no.such-model" not in served
    assert "meta.llama3-1-70b-instruct-v1:0" not in served  # it is in the table, and this account has not got it
    for name in served:
        assert names.check_resource_name("", name)
        assert US.resolve(name, TABLE, {provisioned}, "Bedrock") == name


# Names


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (LLAMA_31, ("", LLAMA_31)),
        (f"us.{LLAMA_31}", ("us", LLAMA_31)),
        (f"us-gov.{CLAUDE}", ("us-gov", CLAUDE)),
        (f"{ARN}:inference-profile/eu.{CLAUDE}", ("eu", CLAUDE)),
        (f"arn:aws:bedrock:us-east-1::foundation-model/{CLAUDE}", ("", CLAUDE)),
        (APPLICATION, ("", "")),
    ],
)
def test_the_parts_of_a_name(name: str, parts: tuple[str, str]) -> None:
    assert parted(name) == parts


@pytest.mark.parametrize(
    "name",
    [
        APPLICATION,
        "arn:aws-us-gov:bedrock:us-gov-west-1:123456789012:provisioned-model/a1b2c3d4e5f6",
        f"{ARN}:imported-model/a1b2c3d4e5f6",
        f"arn:aws:bedrock:us-east-1::foundation-model/{CLAUDE}",
        "arn:aws:sagemaker:us-east-1:123456789012:endpoint/mine",
    ],
)
def test_arns(name: str) -> None:
    assert is_arn(name)
    assert not is_arn(name + " ")
    assert not is_arn(name.replace("arn:aws", "urn:aws"))


def test_what_may_be_an_id() -> None:
    for name in (LLAMA_31, f"us.{CLAUDE}", "amazon.titan-embed-text-v1:2:8k", "openai.gpt-oss-20b-1:0"):
        assert is_id(name)
    for name in ("no-such-model", "Llama3.1-8B", "meta-llama/Llama-3.1-8B", "a.b c", ""):
        assert not is_id(name)


@pytest.mark.parametrize(
    ("region", "near"),
    [
        ("us-east-1", {"us"}),
        ("us-gov-west-1", {"us-gov"}),
        ("eu-central-1", {"eu"}),
        ("ap-south-1", {"apac"}),
        ("ap-northeast-1", {"apac", "jp"}),
        ("ap-southeast-2", {"apac", "au"}),
        ("ca-central-1", {"ca"}),
        ("sa-east-1", set[str]()),
    ],
)
def test_where_a_region_lies(region: str, near: set[str]) -> None:
    known = ("us", "us-gov", "eu", "apac", "jp", "au", "ca", "global")
    assert {geography for geography in known if is_near(geography, region)} == near


def test_families() -> None:
    assert family_of(f"us.{LLAMA_31}").completes
    assert not family_of(CLAUDE).completes
    assert family_of("amazon.titan-embed-text-v1").embeds == "titan"
    assert family_of("us.cohere.embed-v4:0").embeds == "cohere"
    assert family_of(APPLICATION) == family_of("unheard.of-model")
    assert family_of(US.model_of(APPLICATION)).completes
