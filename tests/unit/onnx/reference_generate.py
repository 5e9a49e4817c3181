"""Asks transformers on torch for the answers and prompts that the tests of text generation expect, and writes them
beside itself.

It runs in an environment of its own, as torch is no part of this project's:

    python3 -m venv /tmp/reference
    /tmp/reference/bin/pip install torch==2.13.0 transformers==5.23.0 jinja2 numpy onnx
    /tmp/reference/bin/python tests/unit/onnx/reference_generate.py
"""

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.support import tiny_decoder
from tests.support.tiny_decoder import Decoder, make_decoder

HERE = Path(__file__).parent
TOKENS = 48
CHATS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "the dog"}],
    [
        {"role": "system", "content": "a river runs 🙂"},
        {"role": "user", "content": "nobody sees  it\n"},
        {"role": "assistant", "content": "straße"},
        {"role": "user", "content": "你好, the cat eats " * 40},
    ],
    [{"role": "user", "content": "\n"}, {"role": "tool", "content": '{"name": true}'}],
]
PROMPTS = ["the river", "🙂", "a", "cat eats, " * 70]
CALLS: list[dict[str, Any]] = [
    {"role": "user", "content": "<the> \"weather\" & 'more' ü "},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "look", "arguments": {"at": "Köln", "n": [1, 2.5]}}}
        ],
    },
    {"role": "tool", "content": "rain", "tool_call_id": "1", "name": "look"},
]
# What the templates in the wild make use of.
TEMPLATES = [
    tiny_decoder.TEMPLATE,
    """{%- set seen = namespace(system=false) -%}
{%- for message in messages -%}
    {%- if message['role'] == 'system' -%}{%- set seen.system = true -%}{%- endif -%}
{%- endfor -%}
{%- if not seen.system %}<|system|>none<|end|>
{% endif %}
{% for message in messages %}
    {%- if message.tool_calls %}
        {%- for call in message.tool_calls %}
{{ '<call>' + call.function.name + ' ' + call.function.arguments | tojson(indent=2) }}
        {%- endfor %}
        {%- continue %}
    {%- endif %}
    {% generation %}
{{ loop.index0 }}:{{ message.role | upper }}={{ message['content'] | trim }};{{ message | tojson }}
    {% endgeneration %}
{% endfor %}
{{- eos_token if not add_generation_prompt else bos_token }}""",
    """{% macro turn(one) %}[{{ one.role }}]{{ one.content.split('>')[-1].strip() }}{% endmacro %}
{% for one in messages[::-1] if one.role != 'tool' %}
{{ turn(one) }}{% if one.name is defined %}{{ one.name }}{% endif %}
{% break %}
{% endfor %}
""",
]


def main() -> None:
    found: dict[str, Any] = {"chats": [], "prompts": [], "templates": []}
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_decoder(Path(scratch, "decoder"))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = _model(len(tokenizer))
        for chat in CHATS:
            text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            found["chats"].append({"messages": chat, "prompt": text, **_answer(model, tokenizer, text)})
        for prompt in PROMPTS:
            found["prompts"].append({"prompt": prompt, **_answer(model, tokenizer, prompt)})
        for template in TEMPLATES:
            found["templates"].append({"template": template, "texts": [_render(tokenizer, template, chat)
                                       for chat in (CHATS[0], CHATS[1], CALLS)]})  # fmt: skip
    found["calls"] = CALLS
    text = json.dumps(found, ensure_ascii=False, indent=1)
    text = re.sub(r"\n +(-?\d[^\n]*)(?:\n +(?=]))?", r" \1", text)  # the numbers of a list in one line
    (HERE / "expected_generate.json").write_text(text + "\n")


def _model(vocabulary: int) -> LlamaForCausalLM:
    shape = tiny_decoder
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=shape.HIDDEN, intermediate_size=shape.WIDE, num_hidden_layers=shape.LAYERS,
        num_attention_heads=shape.HEADS, num_key_value_heads=shape.KEYS, max_position_embeddings=shape.POSITIONS,
        rms_norm_eps=shape.EPSILON, rope_theta=shape.THETA, tie_word_embeddings=False, bos_token_id=0,
        eos_token_id=[1, 6], pad_token_id=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    weights = tiny_decoder.weights(vocabulary, Decoder().seed)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return model


def _answer(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, text: str) -> dict[str, Any]:
    """Its likeliest tokens, and how likely each was."""
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.no_grad():
        out = model.generate(ids, max_new_tokens=TOKENS, do_sample=False, output_logits=True,
                             return_dict_in_generate=True)  # fmt: skip
    tokens = out.sequences[0, ids.shape[1] :].tolist()
    logprobs = [float(torch.log_softmax(row[0].double(), -1)[one]) for row, one in zip(out.logits, tokens, strict=True)]
    return {
        "prompt_tokens": ids.shape[1],
        "tokens": tokens,
        "text": tokenizer.decode(tokens, skip_special_tokens=True),
        "logprobs": [round(one, 6) for one in logprobs],
    }


def _render(tokenizer: PreTrainedTokenizerFast, template: str, chat: list[dict[str, Any]]) -> str:
    return tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False, add_generation_prompt=True)


if __name__ == "__main__":
    main()
