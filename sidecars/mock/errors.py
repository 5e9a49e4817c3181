"""Errors in the shape that OpenAI's API answers with: `{"error": {"message", "type", "param", "code"}}`."""

import orjson

_CODES = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}


class MockError(Exception):
    """A request that is answered with an error. `status` is the HTTP status; the rest is the error object."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code

    def body(self) -> bytes:
        return error_body(self.status, self.message, param=self.param, code=self.code)


def invalid(param: str | None, expected: str) -> MockError:
    """A 400 for a field (`param`, None for the whole body) that is not what was `expected`."""
    return MockError(400, f"Invalid '{param}': expected {expected}." if param else f"Expected {expected}.", param=param)


def asked_for(status: int) -> MockError:
    """The error that a control (header, model name or flag) asked for."""
    return MockError(status, f"The mock was asked for status {status}.", code=_CODES.get(status))


def error_body(status: int, message: str, *, param: str | None = None, code: str | None = None) -> bytes:
    return orjson.dumps({"error": {"message": message, "type": error_type(status), "param": param, "code": code}})


def error_type(status: int) -> str:
    if status == 429:
        return "requests"
    return "server_error" if status >= 500 else "invalid_request_error"
