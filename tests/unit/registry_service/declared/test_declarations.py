import pytest

from registry_service.declared.declarations import declarations
from stackmesh.config import ConfigError, parse
from stackmesh.routes import ResourceType

PROVIDERS = """
version: 1
providers:
  inference: [{provider_id: p, provider_type: "inline::fake"}]
  safety: [{provider_id: s, provider_type: "inline::fake"}]
  memory: [{provider_id: m, provider_type: "inline::fake"}]
  agents: [{provider_id: a, provider_type: "inline::fake"}]
"""


def declared(text):
    return declarations(parse(PROVIDERS + text, {}, "test.yaml"))


def test_every_section_becomes_rows():
    found = declared(
        """
models: [{model_id: e, provider_model_id: other, metadata: {k: [1, "x", null]}}]
shields: [{shield_id: Llama-Guard-3-1B, provider_id: s, params: {level: 2}}]
memory_banks:
- {memory_bank_id: docs, params: {vector: {embedding_model: e, chunk_size_in_tokens: 512, overlap_size_in_tokens: 64}}}
- {memory_bank_id: kv, provider_memory_bank_id: table, params: {key_value: {}}}
agents: [{agent_id: helper}]
"""
    )
    model = found[ResourceType.RESOURCE_TYPE_MODEL]["e"]
    assert (model.provider_id, model.provider_resource_id, len(model.metadata["k"])) == ("", "other", 3)
    shield = found[ResourceType.RESOURCE_TYPE_SHIELD]["Llama-Guard-3-1B"]
    assert (shield.provider_id, shield.params["level"]) == ("s", 2)
    banks = found[ResourceType.RESOURCE_TYPE_MEMORY_BANK]
    assert banks["docs"].params.vector.overlap_size_in_tokens == 64
    assert banks["kv"].params.WhichOneof("kind") == "key_value"
    assert list(found[ResourceType.RESOURCE_TYPE_AGENT]) == ["helper"]


@pytest.mark.parametrize(
    ("section", "match"),
    [
        ("models: [{model_id: m, metadata: {when: 2020-01-01}}]", r"models\[0\].metadata: may hold text, numbers"),
        ("models: [{model_id: m, metadata: {n: .nan}}]", r"models\[0\].metadata holds a number that is not finite"),
        (
            f"agents: [{{agent_id: a, metadata: {{note: {'x' * 17_000}}}}}]",
            r"agents\[0\].metadata takes \d+ bytes, at most 16384",
        ),
        ("shields: [{shield_id: stackmesh/x}]", r"shields\[0\].shield_id begins with stackmesh/, which is kept"),
        (
            "memory_banks: [{memory_bank_id: b, params: {vectr: {}}}]",
            r"memory_banks\[0\].params.vectr: unknown key; did you mean `vector`\?",
        ),
        (
            "memory_banks: [{memory_bank_id: b, params: {vector: {model: x}}}]",
            r"memory_banks\[0\].params.vector.model: unknown key; ",
        ),
        (
            "memory_banks: [{memory_bank_id: b, params: {key_value: {ttl: 1}}}]",
            r"memory_banks\[0\].params.key_value.ttl: unknown key; known here: nothing",
        ),
        (
            "memory_banks: [{memory_bank_id: b, params: {}}]",
            r"memory_banks\[0\].params must say the kind of bank, one of: vector, key_value, keyword, graph",
        ),
        (
            "memory_banks: [{memory_bank_id: b, params: {keyword: {}, graph: {}}}]",
            r"memory_banks\[0\].params: may hold one kind of bank only",
        ),
        (
            "memory_banks: [{memory_bank_id: b, params: {vector: {embedding_model: e, chunk_size_in_tokens: secret}}}]",
            r"memory_banks\[0\].params: a value is not of its key's type$",
        ),
        (
            "memory_banks: [{memory_bank_id: b, params: {vector: secret}}]",
            r"memory_banks\[0\].params.vector: must be a mapping",
        ),
        (
            "memory_banks: [{memory_bank_id: b, params: {graph: []}}]",
            r"memory_banks\[0\].params.graph: must be a mapping",
        ),
        (
            "memory_banks: [{memory_bank_id: b, params: {key_value: null}}]",
            r"memory_banks\[0\].params.key_value: must be a mapping",
        ),
        (
            "memory_banks: [{memory_bank_id: b, params: {vector: {embedding_model: e}}}]",
            r"memory_banks\[0\].params.vector.chunk_size_in_tokens is required: 1 to 100000",
        ),
    ],
)
def test_what_a_call_would_be_refused_for_is_a_config_error(section, match):
    with pytest.raises(ConfigError, match=match) as raised:
        declared(section)
    assert "secret" not in str(raised.value)
