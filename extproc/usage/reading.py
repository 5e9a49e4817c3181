"""Usage as providers state it -> Tokens. Pure; lenient in shape, strict in value.

The names follow the providers' API references: OpenAI (chat, completions, embeddings, responses, audio, images),
Anthropic (messages), DeepSeek, Gemini's OpenAI-compatible API, xAI, Mistral, Cohere and vLLM.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

from extproc.usage.record import Tokens

# The largest context window is some ten million tokens: a count beyond this is a mistake or a lie.
MOST_TOKENS = 100_000_000

# Beside the names of chat completions, which come first.
_INPUT_DETAILS = ("input_tokens_details", "input_token_details", "prompt_token_details")
_OUTPUT_DETAILS = ("output_tokens_details", "output_token_details")
# Tokens read from a cache, stated beside the prompt's and part of them: DeepSeek, Mistral, Moonshot; the last one is
# Anthropic's name in an OpenAI-shaped answer, as gateways write it.
_CACHED = ("prompt_cache_hit_tokens", "num_cached_tokens", "cached_tokens", "cache_read_input_tokens")
_ANTHROPIC = ("cache_read_input_tokens", "cache_creation_input_tokens", "iterations")
_CACHE_WRITE = ("cache_creation_input_tokens", "cache_write_tokens")

# What OpenAI's chat completions state, and most others after them. Of the input's details, those that are no charge.
_USUAL = {"prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "completion_tokens_details"}
_USUAL_DETAILS = {"cached_tokens", "audio_tokens"}

_Object = dict[str, Any]


class Reading(NamedTuple):
    """What an answer stated: its tokens; or, when `bad`, none and the problem with them; or, when `absent`, neither."""

    tokens: Tokens | None = None
    problem: str = ""

    @property
    def bad(self) -> bool:
        return self.problem != ""

    @property
    def absent(self) -> bool:
        return self.tokens is None and not self.problem


ABSENT = Reading()


class _BadUsageError(ValueError):
    """A statement that must not be passed on; its text is the reading's problem."""


def tokens(texts: Sequence[str | bytes]) -> Reading:
    """Reads the JSON texts of an answer's usage objects, in the order in which they were sent. Never raises.

    Several texts (Anthropic's message_start and message_delta) are one usage: the last stated value of each field
    counts, since later counts are cumulative. Empty texts and `null` state nothing. What is charged by other units
    (seconds of audio, searches) reads as zero tokens.
    """
    usage: _Object | None = None
    for text in texts:
        if not text:
            continue
        try:
            found = orjson.loads(text)
        except orjson.JSONDecodeError:
            return Reading(None, f"usage is not whole JSON (a text of {len(text)})")
        if type(found) is dict:
            usage = found if usage is None else _merged(usage, found)
        elif found is not None:
            return Reading(None, f"usage is {_shown(found)}, expected an object")
    if not usage:
        return ABSENT
    if (usual := _usual(usage)) is not None:
        return tuple.__new__(Reading, (usual, ""))
    try:
        counted = _count(usage)
    except _BadUsageError as bad:
        return Reading(None, str(bad))
    return ABSENT if counted is None else Reading(counted)


def _merged(earlier: _Object, later: _Object) -> _Object:
    return {**earlier, **{name: value for name, value in later.items() if value is not None}}


def _usual(usage: _Object) -> Tokens | None:
    """What most answers state, by a shortcut: counts under the usual names alone that add up. None for all else.

    It says what `_count` says, in half the time; a test holds them together.
    """
    if not usage.keys() <= _USUAL:
        return None
    details, thought = usage.get("prompt_tokens_details", _NOTHING), usage.get("completion_tokens_details", _NOTHING)
    if type(details) is not dict or type(thought) is not dict or not details.keys() <= _USUAL_DETAILS:
        return None
    stated, output, total = usage.get("prompt_tokens"), usage.get("completion_tokens"), usage.get("total_tokens")
    cached, reasoning = details.get("cached_tokens", 0), thought.get("reasoning_tokens", 0)
    if (
        type(stated) is type(output) is type(total) is type(cached) is type(reasoning) is int
        and 0 <= cached <= stated
        and 0 <= reasoning <= output
        and stated + output == total <= MOST_TOKENS
    ):
        return tuple.__new__(Tokens, (stated, output, cached, 0, reasoning))
    return None


_NOTHING: _Object = {}


def _count(usage: _Object) -> Tokens | None:
    """The tokens of one usage object; None when it speaks of none."""
    if usage.get("input_tokens") is not None and "prompt_tokens" not in usage and "completion_tokens" not in usage:
        return _input_family(usage)
    prompt = _number(usage, "prompt_tokens")
    completion = _number(usage, "completion_tokens")
    # Some gateways send both families of names, the unused one as zeros.
    if not prompt and not completion:
        if usage.get("input_tokens") is not None or usage.get("output_tokens") is not None:
            return _input_family(usage)
        if prompt is None and completion is None and usage.get("total_tokens") is None:
            return _other_units(usage)
    cached, cache_write = _cache(usage)
    return _settle(prompt, completion, _number(usage, "total_tokens"), cached, cache_write, _reasoning(usage))


def _input_family(usage: _Object) -> Tokens:
    """`input_tokens` and `output_tokens`: OpenAI's newer APIs, where input holds everything, or Anthropic's.

    Anthropic's input_tokens are only those that its cache had no part in.
    """
    stated, output = _number(usage, "input_tokens"), _number(usage, "output_tokens")
    if usage.get("input_tokens_details") is not None or usage.keys().isdisjoint(_ANTHROPIC):
        cached, cache_write = _cache(usage)
        return _settle(stated, output, _number(usage, "total_tokens"), cached, cache_write, _reasoning(usage))
    if stated is None or output is None:
        raise _BadUsageError(f"{'input_tokens' if stated is None else 'output_tokens'} is missing beside cache counts")
    cached = _number(usage, "cache_read_input_tokens") or 0
    cache_write = _number(usage, "cache_creation_input_tokens") or 0
    for part in _compactions(usage):
        stated += _number(part, "input_tokens") or 0
        output += _number(part, "output_tokens") or 0
        cached += _number(part, "cache_read_input_tokens") or 0
        cache_write += _number(part, "cache_creation_input_tokens") or 0
    return _settle(stated + cached + cache_write, output, None, cached, cache_write, _reasoning(usage))


def _compactions(usage: _Object) -> list[_Object]:
    """Anthropic charges for compacting a conversation beside the answer: the counts at the top leave that out."""
    parts = usage.get("iterations")
    if type(parts) is not list:
        return []
    return [part for part in parts if type(part) is dict and part.get("type") == "compaction"]


def _other_units(usage: _Object) -> Tokens | None:
    """Cohere's `meta` and `billed_units`, transcriptions by the second; None for what speaks of no unit."""
    meta = usage.get("meta")
    if type(meta) is dict:
        return _other_units(meta) if "meta" not in meta else None
    billed, processed = usage.get("billed_units"), usage.get("tokens")
    for counts in (billed, processed):  # what is billed leaves out the provider's own preamble
        if type(counts) is dict and ("input_tokens" in counts or "output_tokens" in counts):
            return _settle(_number(counts, "input_tokens") or 0, _number(counts, "output_tokens") or 0, None, 0, 0, 0)
    if type(billed) is dict or usage.get("type") == "duration":
        return Tokens()
    return None


def _settle(
    stated: int | None, output: int | None, total: int | None, cached: int, cache_write: int, reasoning: int
) -> Tokens:
    """Fills in what `total` tells of missing parts, and refuses contradictions."""
    if stated is None:
        if total is None or (output or 0) > total:
            raise _BadUsageError("input tokens are missing, and no total tells them")
        stated = total - (output or 0)
    if output is None:
        output = max(0, total - stated) if total is not None else 0
    hidden = 0 if total is None else total - stated - output
    if hidden < 0:
        raise _BadUsageError(f"total of {total} is less than input {stated} and output {output}")
    # Gemini and xAI leave thinking out of the completion and count it in the total; it is charged as output.
    # Elsewhere a total was seen to count cached tokens twice: those are not output.
    if hidden and hidden != cached + cache_write:
        output += hidden
        reasoning = reasoning or hidden
    if stated > MOST_TOKENS or output > MOST_TOKENS:
        raise _BadUsageError(f"input {stated} or output {output} is more than {MOST_TOKENS}")
    if cached + cache_write > stated:
        raise _BadUsageError(f"cached {cached} and written to the cache {cache_write} are more than input {stated}")
    if reasoning > output:
        raise _BadUsageError(f"reasoning {reasoning} is more than output {output}")
    return Tokens(stated, output, cached, cache_write, reasoning)


def _cache(usage: _Object) -> tuple[int, int]:
    """Tokens read from and written to a cache, where both are part of the input."""
    details = usage.get("prompt_tokens_details")
    if type(details) is not dict:
        details = _first_object(usage, _INPUT_DETAILS)
    cached = written = None
    if details is not None:
        cached, written = _number(details, "cached_tokens"), _first_number(details, _CACHE_WRITE)
    if cached is None:
        cached = _first_number(usage, _CACHED)
    if written is None:
        written = _number(usage, "cache_creation_input_tokens")
    return cached or 0, written or 0


def _reasoning(usage: _Object) -> int:
    details = usage.get("completion_tokens_details")
    if type(details) is not dict:
        details = _first_object(usage, _OUTPUT_DETAILS)
    return (_number(details, "reasoning_tokens") or 0) if details is not None else 0


def _first_object(usage: _Object, names: tuple[str, ...]) -> _Object | None:
    for name in names:
        if name in usage:
            found = usage[name]
            if type(found) is dict:
                return found
    return None


def _first_number(usage: _Object, names: tuple[str, ...]) -> int | None:
    for name in names:
        if usage.get(name) is not None:
            return _number(usage, name)
    return None


def _number(usage: _Object, name: str) -> int | None:
    """The count `name`, None where it is not stated. Cohere writes counts as floats: a whole one is a count."""
    value = usage.get(name)
    if value is None:
        return None
    if type(value) is int and 0 <= value <= MOST_TOKENS:
        return value
    if type(value) is float and 0 <= value <= MOST_TOKENS and value.is_integer():
        return int(value)
    raise _BadUsageError(f"{name} is {_shown(value)}, expected a whole number from 0 to {MOST_TOKENS}")


def _shown(value: object) -> str:
    """A provider's value for a log line: numbers as they are, all else by kind, since it may hold anything."""
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return f"{value:.6g}" if isinstance(value, float) or abs(value) > MOST_TOKENS else str(value)
    return "a string" if isinstance(value, str) else "a list" if isinstance(value, list) else "an object"
