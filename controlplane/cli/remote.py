"""The admin API as `ctl` uses it."""

from typing import Any

import httpx

DEFAULT = "http://127.0.0.1:9800"
_WAIT_S = 310.0  # longer than an apply may wait for its nodes


class RemoteError(Exception):
    """The control plane cannot be reached, or refuses. `answer` is what it said, `status` the HTTP status."""

    def __init__(self, message: str, status: int | None = None, answer: Any = None) -> None:
        super().__init__(message)
        self.status, self.answer = status, answer


class Remote:
    """One control plane. Calls block."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        self._url = url.rstrip("/")

    def get(self, path: str, **query: Any) -> Any:
        return self._ask("GET", path, params={k: v for k, v in query.items() if v is not None})

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self._ask("POST", path, json=body)

    def delete(self, path: str, **query: Any) -> Any:
        return self._ask("DELETE", path, params=query)

    def reachable(self) -> bool:
        """Whether a control plane answers here at all."""
        try:
            self._request("GET", "/nodes", timeout=2)
        except httpx.HTTPError:
            return False
        return True

    def _ask(self, method: str, path: str, **more: Any) -> Any:
        try:
            answer = self._request(method, path, **more)
        except httpx.HTTPError as error:
            raise RemoteError(
                f"no control plane answers at {self._url} ({error}). Start one with `ctl up POLICY`, or name it "
                f"with --server URL."
            ) from error
        try:
            data = answer.json()
        except ValueError:
            raise RemoteError(f"{self._url} is no Headgate control plane: it answered {path} without JSON") from None
        if answer.is_success:
            return data
        raise RemoteError(_said(data), answer.status_code, data)

    def _request(self, method: str, path: str, timeout: float = _WAIT_S, **more: Any) -> httpx.Response:
        with httpx.Client(base_url=self._url, headers=self._headers, timeout=timeout, trust_env=False) as http:
            return http.request(method, path, **more)


def _said(data: Any) -> str:
    """Why a call was refused, in the words of whoever refused it."""
    if not isinstance(data, dict):
        return str(data)
    error = data.get("error")
    if isinstance(error, dict):
        return str(error.get("message"))
    if isinstance(detail := data.get("detail"), list):  # FastAPI's, of an argument that does not fit
        return "; ".join(f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in detail)
    return str(data.get("message") or detail or error)
