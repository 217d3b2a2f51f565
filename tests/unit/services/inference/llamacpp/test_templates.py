from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from services.inference.llamacpp import gguf
from services.inference.llamacpp.models import BUNDLED, locate
from services.inference.llamacpp.templates import CALL_BEGINS, CALL_ENDS, ChatTemplate, template_of
from tests.unit.services.inference.llamacpp.test_gguf import gguf as file_of, text, written

OWN = "tokenizer.chat_template"
KNOWING = "{%- if tools is defined and tools %}{{ tools | tojson }}{% endif %}{{ messages[0].content }}"
IGNORANT = "{{ 'No tools here.' }}{% for message in messages %}{{ message.content }} tools {% endfor %}"


def test_a_model_that_knows_tools_keeps_its_template(tmp_path: Path) -> None:
    assert template_of(written(tmp_path, file_of((OWN, 8, text(KNOWING))))) == ChatTemplate("", taught=False)
    two = file_of((OWN, 8, text(IGNORANT)), (f"{OWN}.tool_use", 8, text(KNOWING)))
    assert template_of(written(tmp_path, two)) == ChatTemplate("", taught=False)


@pytest.mark.parametrize(
    ("own", "knows"),
    [
        ("{% for tool in tools %}x{% endfor %}", True),
        ("{{- tools | tojson -}}", True),
        ("{%- if not tools\n is none %}x{% endif %}", True),
        ("{{ 'it\\'s ' ~ tools }}", True),
        ("{{ messages }} tools", False),
        ('{{ "You have no tools." }}', False),
        ("{% if custom_tools %}x{% endif %}{# tools #}", False),
        ("{% if tool_calls %}{{ message.tools_used }}{% endif %}", False),
    ],
)
def test_it_knows_tools_if_it_has_a_use_for_them(tmp_path: Path, own: str, knows: bool) -> None:
    assert template_of(written(tmp_path, file_of((OWN, 8, text(own))))).taught is not knows


def test_the_bundled_model_is_taught() -> None:
    path = locate("smollm2-135m-instruct", BUNDLED["smollm2-135m-instruct"])
    template = template_of(path)
    assert template.taught
    assert template.source.endswith(gguf.texts(path)[OWN])


def test_a_model_without_a_template_speaks_chatml(tmp_path: Path) -> None:
    template = template_of(written(tmp_path, file_of()))
    assert template.taught
    assert "<|im_start|>" in template.source


def test_a_template_of_the_user_s_is_taken_instead(tmp_path: Path) -> None:
    path = written(tmp_path, file_of((OWN, 8, text(KNOWING))))
    assert template_of(path, KNOWING + "!") == ChatTemplate(KNOWING + "!", taught=False)
    taught = template_of(path, IGNORANT)
    assert taught.taught
    assert taught.source.endswith(IGNORANT)


def test_calls_begin_and_end_as_the_prelude_says() -> None:
    prelude = (resources.files("services.inference.llamacpp") / "tools.jinja").read_text(encoding="utf-8")
    assert f"{CALL_BEGINS}{{" in prelude
    assert f"}}\n{CALL_ENDS}" in prelude
