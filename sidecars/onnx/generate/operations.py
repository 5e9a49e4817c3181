"""What a request for text has a model generate, and how it is answered: whole, or as it comes."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

import orjson

from sidecars.onnx.batch import Priority
from sidecars.onnx.bodies import read_input
from sidecars.onnx.errors import ServiceError, invalid
from sidecars.onnx.generate.answers import DONE, ChatShape, Choice, CompletionShape, Shape, event, usage
from sidecars.onnx.generate.bodies import ChatBody, CompletionBody, GenerateBody, template_messages
from sidecars.onnx.generate.generation import Asked
from sidecars.onnx.generate.loaded import LoadedGenerator
from sidecars.onnx.generate.prompt import TemplateRefusedError


@dataclass(frozen=True, slots=True)
class Call:
    """A model and how a request may use it. `max_inputs`: answers of one request."""

    name: str
    loaded: LoadedGenerator
    priority: Priority
    max_inputs: int


@dataclass(frozen=True, slots=True)
class Order:
    """What a request comes down to. `prompt_tokens`: of all its prompts, each counted once."""

    asked: Sequence[Asked]
    prompt_tokens: int
    shape: Shape
    with_usage: bool


async def chat(call: Call, body: ChatBody) -> Order:
    """POST /v1/chat/completions. Raises ServiceError."""
    template, vocabulary = call.loaded.template, call.loaded.vocabulary
    if template is None:
        raise ServiceError(
            400, "operation_not_supported",
            f"The model '{call.name}' has no chat template; /v1/completions takes a prompt as it is.", param="model",
        )  # fmt: skip
    messages = template_messages(body.messages)
    try:
        text = await asyncio.to_thread(template.text, messages)
    except TemplateRefusedError as error:
        raise invalid("messages", f"Invalid 'messages': the model's chat template refuses them: {error}") from None
    ids = await asyncio.to_thread(vocabulary.ids, text, special=False)
    shape = ChatShape(call.name, vocabulary, scored=body.logprobs, with_usage=body.with_usage)
    return _order(
        call, body, [ids], "messages", shape, body.output_tokens, likeliest=body.likeliest, guidance=_guidance(body)
    )


async def complete(call: Call, body: CompletionBody) -> Order:
    """POST /v1/completions. Raises ServiceError."""
    vocabulary = call.loaded.vocabulary
    given = read_input(body.prompt, "prompt")
    prompts: list[list[int]] = []
    for prompt in given:
        if isinstance(prompt, str):
            prompts.append(await asyncio.to_thread(vocabulary.ids, prompt, special=True))
        else:
            _check_ids(call, prompt)
            prompts.append(prompt)
    shape = CompletionShape(call.name, vocabulary, scored=body.logprobs is not None, with_usage=body.with_usage)
    return _order(call, body, prompts, "prompt", shape, body.max_tokens, likeliest=body.logprobs)


async def whole(call: Call, order: Order) -> bytes:
    """The answer in one. Raises ServiceError."""
    answers = call.loaded.engine.submit(order.asked, call.priority)
    choices = [Choice() for _ in order.asked]
    try:
        async for index, piece in answers:
            choices[index].grow(piece)
    finally:
        answers.leave()
    return order.shape.whole(choices, usage(order.prompt_tokens, choices))


async def stream(call: Call, order: Order) -> AsyncGenerator[bytes]:
    """The answer as server-sent events, the first of them when there is a first token. Raises ServiceError."""
    answers = call.loaded.engine.submit(order.asked, call.priority)
    choices = [Choice() for _ in order.asked]
    try:
        async for index, piece in answers:
            if not choices[index].generated and (first := order.shape.first(index)) is not None:
                yield event(first)
            choices[index].grow(piece)
            if piece.text or piece.tokens or piece.finish is not None:
                yield event(order.shape.chunk(index, piece))
    finally:
        answers.leave()
    if order.with_usage:
        yield event(order.shape.last(usage(order.prompt_tokens, choices)))
    yield DONE


def _order(
    call: Call,
    body: GenerateBody,
    prompts: Sequence[list[int]],
    place: str,
    shape: Shape,
    output_tokens: int | None,
    *,
    likeliest: int | None,
    guidance: tuple[str, str] | None = None,
) -> Order:
    card = call.loaded.card
    if len(prompts) * body.n > call.max_inputs:
        raise invalid("n", f"Invalid 'n': {len(prompts) * body.n} answers in one request; at most {call.max_inputs}.")
    choice = body.choice(card.defaults, card.vocabulary)
    asked: list[Asked] = []
    for prompt in prompts:
        bound = _bound(call, len(prompt), output_tokens, place)
        for _ in range(body.n):
            asked.append(Asked(prompt, bound, choice.numbered(len(asked)), body.stops, likeliest, guidance))
    return Order(asked, sum(map(len, prompts)), shape, body.with_usage)


def _bound(call: Call, prompt: int, asked: int | None, place: str) -> int:
    """How many tokens an answer may have. Raises ServiceError where prompt and answer are too long together."""
    card = call.loaded.card
    if not prompt:
        raise invalid(place, f"Invalid '{place}': it has no tokens.")
    if prompt + (asked or 1) > card.max_tokens:
        raise ServiceError(
            400, "context_length_exceeded",
            f"The model '{call.name}' has a context of {card.max_tokens} tokens; this request has {prompt} in the "
            f"prompt and asks for {asked or 'at least 1'} in the answer.",
            param=place,
        )  # fmt: skip
    if asked is not None and asked > card.max_output_tokens:
        raise invalid(
            "max_tokens",
            f"Invalid 'max_tokens': {asked}; an answer of '{call.name}' may have {card.max_output_tokens} at most.",
        )
    return asked or min(card.max_output_tokens, card.max_tokens - prompt)


def _guidance(body: ChatBody) -> tuple[str, str] | None:
    wanted = body.response_format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return "json_schema", '{"type":"object"}'
    if wanted.json_schema is None or wanted.json_schema.schema_ is None:
        place = "response_format.json_schema.schema"
        raise invalid(place, f"Missing required parameter: '{place}'.")
    return "json_schema", orjson.dumps(wanted.json_schema.schema_).decode()


def _check_ids(call: Call, ids: Sequence[int]) -> None:
    size = call.loaded.card.vocabulary
    if min(ids) < 0 or max(ids) >= size:
        raise invalid("prompt", f"Invalid 'prompt': token ids of '{call.name}' are from 0 to {size - 1}.")
