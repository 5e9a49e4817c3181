"""Chat templates give what they give in transformers, and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest

from sidecars.onnx.generate.prompt import ChatTemplate, TemplateRefusedError

EXPECTED = json.loads(Path(__file__).with_name("expected_generate.json").read_text())
NAMES = {"bos_token": "<s>", "eos_token": "</s>"}
CHATS = [EXPECTED["chats"][0]["messages"], EXPECTED["chats"][1]["messages"], EXPECTED["calls"]]


@pytest.mark.parametrize("one", EXPECTED["templates"], ids=range(len(EXPECTED["templates"])))
def test_templates_render_as_in_transformers(one: dict[str, Any]) -> None:
    template = ChatTemplate(one["template"], NAMES)
    assert [template.text(chat) for chat in CHATS] == one["texts"]


def test_a_template_knows_the_date() -> None:
    year = ChatTemplate("{{ strftime_now('%Y') }}", {}).text([])
    assert year.isdigit()
    assert len(year) == 4


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[5].content }}", "has no element 5"),
        ("{{ messages.append(1) }}", "is unsafe"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages + 1 }}", "can only concatenate"),
    ],
)
def test_what_a_template_may_not_do_is_told(source: str, says: str) -> None:
    with pytest.raises(TemplateRefusedError, match=says):
        ChatTemplate(source, {}).text([{"role": "user", "content": "a"}])


def test_a_template_that_is_none() -> None:
    with pytest.raises(TemplateRefusedError, match="chat template is not valid"):
        ChatTemplate("{% for %}", {})
