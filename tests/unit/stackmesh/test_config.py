"""One YAML, read once: what is wrong is said with its path, and nothing secret is ever repeated."""

import pytest

from stackmesh import config
from stackmesh.config import ConfigError, load, parse

ECHO = """
version: 1
providers:
  inference:
  - {provider_id: a, provider_type: "inline::echo", config: {models: [one]}}
models:
- model_id: one
"""


def problem(text, environment=None):
    with pytest.raises(ConfigError) as caught:
        parse(text, environment or {}, "mesh.yaml")
    return str(caught.value)


def test_the_default_mesh_is_valid():
    made = load(None, {})
    assert made.providers.inference[0].provider_type == "inline::llamacpp"
    assert made.gateway.address == "127.0.0.1:8321"


def test_a_whole_file(tmp_path):
    path = tmp_path / "mesh.yaml"
    path.write_text(ECHO)
    made = load(path, {})
    assert made.providers.inference[0].config == {"models": ["one"]}
    assert [(api, p.provider_id) for api, p in made.providers.all()] == [(1, "a")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("version: 1\ngatewy: {}", "mesh.yaml: gatewy: unknown key; did you mean `gateway`?"),
        ("version: 1\ngateway: {adress: x}", "gateway.adress: unknown key; did you mean `address`?"),
        (ECHO.replace("provider_type", "provider_typ"), "providers.inference[0].provider_typ: unknown key; did you"),
        (ECHO.replace("model_id", "name"), "models[0].name: unknown key; known here: model_id, provider_id"),
        ("version: 1\nservices: {safety: {}}", "services.safety: unknown key"),
        ("version: 2", "version: must be 1"),
        ("gateway: {}", "version: is required"),
        ("version: 1\ngateway: {address: 8321}", "gateway.address: must be HOST:PORT, for example 127.0.0.1:8321"),
        ("version: 1\ngateway: {address: 'h:99999'}", "gateway.address: must be HOST:PORT"),
        ("version: 1\nregistry: {store: 'postgres://x'}", "registry.store: must be sqlite:///PATH or etcd://"),
        ("version: 1\ngateway: {snapshot_file: 5}", "gateway.snapshot_file: must be a path, or null for none"),
        (
            "version: 1\nproviders: {inference: [{provider_id: a, provider_type: vllm}]}",
            "providers.inference[0].provider_type: must be inline::NAME or remote::NAME",
        ),
        ("version: 1\ngateway: {unary_timeout: -1}", "gateway.unary_timeout:"),
        (ECHO.replace("model_id: one", "model_id: 'o ne'"), "models[0].model_id: may hold letters"),
        (ECHO.replace("provider_id: a", "provider_id: A"), "providers.inference[0].provider_id: may hold lower-case"),
        ("[1, 2]", "mesh.yaml: must be a mapping"),
        ("version: 1\ngateway: {unary_timeout: .inf}", "gateway.unary_timeout: "),
        ("version: 1\nregistry: {lease_ttl: .nan}", "registry.lease_ttl: "),
        ("version: 1\ngateway: {}\ngateway: {}", "mesh.yaml:3:1: not YAML: gateway is there twice"),
        ("version: 1\nmodels: &m\n- *m", "something in it contains itself"),
        ("x: " + "[" * 3000, "mesh.yaml: is nested too deeply"),
        (
            "version: 1\ngateway: {address: 'h:1'}\nregistry: {address: 'h:1'}",
            "gateway.address: h:1 is the reg",
        ),
        ("", "mesh.yaml: must be a mapping"),
        ("a: [", "mesh.yaml:1:5: not YAML"),
        (
            ECHO + "- {model_id: two, provider_id: b}",
            "models[1].provider_id: no inference provider is called b; there are: a",
        ),
        (ECHO + "- {model_id: one}", "models[1].model_id: one is there twice"),
        (ECHO + "agents:", "agents: must be a list; leave it out where there is none"),
        (ECHO + "agents: {agent_id: a}", "agents: must be a list"),
        (ECHO.replace("model_id: one", "model_id: yes"), "models[0].model_id: must be text; write it in quotes"),
        (ECHO.replace("model_id: one", "model_id: 405"), "models[0].model_id: must be text; write it in quotes"),
        (ECHO.replace("model_id: one", "model_id:"), "models[0].model_id: must be text; write it in quotes"),
        (ECHO.replace("provider_id: a", "provider_id: 1"), "providers.inference[0].provider_id: must be text; write"),
        (ECHO.replace('"inline::echo"', "1"), "providers.inference[0].provider_type: must be text; write it in quotes"),
        (
            ECHO.replace("inline::echo", "inline::" + "x" * 64),
            "providers.inference[0].provider_type: must be inline::NAME or remote::NAME, the NAME of at most 63",
        ),
        ("version: 1\nmodels: [{model_id: m}]", "models: there is no provider that could serve them"),
    ],
)
def test_what_is_wrong_is_said_with_its_path(text, said):
    assert said in problem(text)


def test_a_provider_id_is_used_once():
    provider = '  - {provider_id: a, provider_type: "inline::echo"}\n'
    text = "version: 1\nproviders:\n  inference:\n" + provider * 2
    assert "providers.inference[1].provider_id: a is there twice" in problem(text)


def test_every_problem_is_told_at_once():
    said = problem("version: 1\ngatewy: {}\nregistry: {sotre: x}")
    assert "gatewy" in said
    assert "registry.sotre" in said


def test_variables_are_replaced_in_every_string():
    text = ECHO.replace("[one]", '["${env.MODEL}", "${env.OTHER:b}-${env.EMPTY:}"]')
    made = parse(text, {"MODEL": "m"}, "mesh.yaml")
    assert made.providers.inference[0].config == {"models": ["m", "b-"]}


def test_a_variable_that_is_not_set_is_named_with_its_path():
    said = problem(ECHO.replace("[one]", '["${env.MODEL}"]'))
    assert "providers.inference[0].config.models[0]: the environment variable MODEL is not set" in said
    assert "${env.MODEL:DEFAULT}" in said


def test_a_variables_value_is_text_never_yaml():
    text = ECHO.replace("[one]", '["${env.MODEL}"]')
    assert parse(text, {"MODEL": "{a: 1}"}, "f").providers.inference[0].config == {"models": ["{a: 1}"]}


@pytest.mark.parametrize("field", ["gateway: {address: '%s'}", "registry: {store: '%s'}", "%s: 1", "gateway: '%s'"])
def test_values_are_never_repeated(field):
    said = problem("version: 1\n" + field.replace("%s", "${env.KEY}"), {"KEY": "sk-secret"})
    assert "sk-secret" not in said


def test_a_providers_configuration_is_not_in_its_repr():
    made = parse(ECHO.replace("[one]", "['sk-secret']"), {}, "f")
    assert "sk-secret" not in repr(made)


@pytest.mark.parametrize(("content", "said"), [(None, "No such file"), (b"\xff\xfe\x00", "not UTF-8")])
def test_an_unreadable_file(tmp_path, content, said):
    path = tmp_path / "mesh.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        load(path, {})


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path, {})


def test_configuration_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        setattr(config.load(None, {}).gateway, "address", "x:1")  # noqa: B010 -- a plain assignment would not type-check
