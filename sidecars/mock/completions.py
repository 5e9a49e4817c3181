"""POST /v1/completions, plain and streamed: the older text API. A prompt is a text or the ids of its tokens."""

from dataclasses import replace
from typing import Any

import orjson

from sidecars.mock import prose
from sidecars.mock.answer import DONE, Plain, Stream, chat_usage, json_answer, measure, with_usage
from sidecars.mock.call import Call
from sidecars.mock.chat import event, failure_event, fill, wants_usage
from sidecars.mock.draft import Ask, Draft, draft
from sidecars.mock.errors import MockError
from sidecars.mock.inputs import Input, inputs


def answer(call: Call) -> Plain | Stream:
    call.model()
    with_final_usage = wants_usage(call)
    prompts = inputs(call, "prompt")
    count = call.integer("n", 1, 128) or 1
    drafts = [made for prompt in prompts for made in [_draft(call, prompt)] * count]
    usage = measure(call, sum(prompt.tokens for prompt in prompts), sum(made.usage.completion for made in drafts))
    shell = {
        "id": call.identify("cmpl-"),
        "object": "text_completion",
        "created": call.created,
        "model": call.model(),
        "system_fingerprint": "fp_mock",
    }
    if not call.flag("stream"):
        shell["choices"] = [_choice(i, made.text, made.reason) for i, made in enumerate(drafts)]
        return json_answer(with_usage(call, shell, chat_usage(usage)), usage)
    tail: dict[str, Any] = {"usage": None} if with_final_usage else {}
    marker = "\0piece\0"
    pieces = [made.pieces for made in drafts]
    frames = [event({**shell, "choices": [_choice(i, marker, None)], **tail}) for i in range(len(drafts))]
    closing = b"".join(event({**shell, "choices": [_choice(i, "", d.reason)], **tail}) for i, d in enumerate(drafts))
    if with_final_usage:
        closing += event({**shell, "choices": [], "usage": chat_usage(usage)})
    return Stream(
        opening=b"",
        chunks=(chunk for f, p in zip(frames, pieces, strict=True) for chunk in fill([f], orjson.dumps(marker), p)),
        total=sum(map(len, pieces)),
        closing=closing + DONE,
        failure=failure_event(),
        usage=usage,
    )


def _draft(call: Call, prompt: Input) -> Draft:
    """The answer to one prompt; its usage is counted here without controls, which apply to the sum."""
    limit = call.integer("max_tokens", 1, 1 << 30)
    made = draft(call, Ask(prompt.text, 0, 1, prose.stops_of(call), limit, None))
    if made.tool is not None:
        raise MockError(500, "A fixture answers with a tool call, which this API does not have.")
    usage = replace(made.usage, completion=prose.words(made.text))
    if not call.flag("echo"):
        return replace(made, usage=usage)
    text = prompt.text + made.text
    return replace(made, text=text, usage=usage, pieces=prose.pieces(text, call.controls.chunks))


def _choice(index: int, text: str, reason: str | None) -> dict[str, Any]:
    return {"text": text, "index": index, "logprobs": None, "finish_reason": reason}
