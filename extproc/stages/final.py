"""Is an answer one that may be given again? Not one that is unfinished, cut off at a cap, filtered or refused."""

from collections.abc import Callable, Mapping
from typing import Any

from extproc.stages.protocol import Endpoint

_CUT = frozenset({None, "length", "content_filter", "error"})
# https://docs.claude.com/en/api/handling-stop-reasons
_CUT_MESSAGES = frozenset({None, "max_tokens", "refusal", "pause_turn", "model_context_window_exceeded"})


def is_final(endpoint: Endpoint, answer: Mapping[str, Any]) -> bool:
    """Whether an answer, one JSON object, came to the end that its model meant."""
    if answer.get("error") is not None or answer.get("type") == "error":
        return False
    judge = _JUDGES.get(endpoint)
    try:
        return judge is not None and judge(answer)
    except (AttributeError, TypeError):  # of another shape
        return False


def _choices(answer: Mapping[str, Any]) -> bool:
    choices = answer.get("choices") or ()
    return bool(choices) and all(
        choice.get("finish_reason") not in _CUT and not (choice.get("message") or {}).get("refusal")
        for choice in choices
    )


def _message(answer: Mapping[str, Any]) -> bool:
    return answer.get("stop_reason") not in _CUT_MESSAGES


def _response(answer: Mapping[str, Any]) -> bool:
    if answer.get("status") != "completed":
        return False
    parts = (part for item in answer.get("output") or () for part in item.get("content") or ())
    return all(part.get("type") != "refusal" for part in parts)


_JUDGES: Mapping[Endpoint, Callable[[Mapping[str, Any]], bool]] = {
    Endpoint.CHAT: _choices,
    Endpoint.COMPLETIONS: _choices,
    Endpoint.EMBEDDINGS: lambda answer: bool(answer.get("data")),
    Endpoint.MESSAGES: _message,
    Endpoint.RESPONSES: _response,
}
