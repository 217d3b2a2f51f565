"""The table of what providers can do says only what it may, and the README has it."""

import pytest

from scripts.capabilities import BEGIN, END, README, table, with_table
from services.inference.capabilities import capabilities, capabilities_of
from services.inference.providers import KINDS
from stackmesh.config import ConfigError

TABLE = """
capabilities:
- {name: chat, title: chat, always: true}
- {name: seed, title: seed}
- {name: embeddings, title: embeddings, required_of: ["remote::a"]}
providers:
"""


def problems(providers):
    return list(capabilities_of(TABLE + providers).problems())


def test_the_table_says_only_what_it_may():
    assert capabilities().problems() == []


def test_every_provider_type_is_in_it_but_the_one_that_is_no_model():
    assert set(capabilities().providers) == set(KINDS) - {"inline::echo"}


def test_the_readme_has_it():
    text = README.read_text(encoding="utf-8")
    assert with_table(text, table(capabilities())) == text


@pytest.mark.parametrize(
    ("providers", "problem"),
    [
        ('  "remote::a": {chat: no}', "remote::a may not decline chat"),
        ('  "remote::a": {embeddings: no}', "remote::a may not decline embeddings"),
        ('  "remote::a": {sed: no}', "remote::a declines sed, which is no capability"),
        ('  "remote::a": {seed: " "}', "remote::a declines seed without a reason"),
    ],
)
def test_what_it_may_not_say_is_found(providers, problem):
    assert problems(providers.replace(": no}", ": it cannot}")) == [problem]
    assert problems('  "remote::b": {embeddings: it cannot}') == []


def test_another_form_is_refused():
    with pytest.raises(ConfigError, match=r"capabilities\.yaml"):
        capabilities_of("capabilities: 3")


def test_a_gap_is_shown_with_its_reason_once():
    found = capabilities_of(TABLE + '  "remote::a": {seed: dice}\n  "remote::b": {seed: dice, embeddings: none}')
    assert table(found).splitlines() == [
        "| | `remote::a` | `remote::b` |",
        "|---|---|---|",
        "| chat | yes | yes |",
        "| seed | no (1) | no (1) |",
        "| embeddings | yes | no (2) |",
        "",
        "(1) dice; (2) none.",
    ]
    with pytest.raises(SystemExit):
        with_table(BEGIN, "")
    assert END in with_table(f"a{BEGIN}b{END}c", "t")
