"""What can be answered instead of a result, in the shape of OpenAI's API: `{"error": {message, type, param, code}}`."""

import math
from collections.abc import Iterable
from difflib import get_close_matches

import orjson


class ServiceError(Exception):
    """A request that is answered with an error. `retry_after`: seconds, sent as a header."""

    def __init__(
        self, status: int, code: str, message: str, *, param: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after

    def body(self) -> bytes:
        error = {"message": self.message, "type": _type(self.status), "param": self.param, "code": self.code}
        return orjson.dumps({"error": error})

    def headers(self) -> dict[str, str]:
        if self.retry_after is None:
            return {}
        return {"retry-after": str(max(1, math.ceil(self.retry_after)))}


def invalid(param: str | None, message: str) -> ServiceError:
    """A 400 for a field, None for the whole body."""
    return ServiceError(400, "invalid_request", message, param=param)


def unknown_model(name: str, known: Iterable[str]) -> ServiceError:
    """A 404 with the nearest name."""
    near = get_close_matches(name, list(known), 1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return ServiceError(404, "model_not_found", f"The model '{name}' does not exist.{hint}", param="model")


def overloaded(message: str, retry_after: float) -> ServiceError:
    """A 429: the queue of a model is full."""
    return ServiceError(429, "queue_full", message, retry_after=retry_after)


def unavailable(name: str, reason: str, retry_after: float | None = None) -> ServiceError:
    """A 503: the model cannot be loaded."""
    return ServiceError(
        503, "model_unavailable", f"The model '{name}' cannot be used: {reason}", retry_after=retry_after
    )


def out_of_memory(name: str) -> ServiceError:
    """A 503: what was asked for does not fit into memory, even alone."""
    return ServiceError(503, "out_of_memory", f"The model '{name}' ran out of memory on this input alone.")


def failed(name: str, reason: str) -> ServiceError:
    """A 500: the model was run and gave nothing that can be used."""
    return ServiceError(500, "inference_failed", f"The model '{name}' failed: {reason}")


def _type(status: int) -> str:
    if status == 429:
        return "requests"
    return "server_error" if status >= 500 else "invalid_request_error"
