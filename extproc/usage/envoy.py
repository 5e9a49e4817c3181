"""What the collector asks of Envoy, over its admin interface: https://www.envoyproxy.io/docs/envoy/v1.40.0/operations/admin"""

from types import TracebackType
from typing import Self

import httpx

_ASK_S = 2.0  # an Envoy that does not answer must not keep the collector from reading
_FAILED_WRITES = "filesystem.write_failed"


class Envoy:
    """The Envoy behind a unix socket, where there is one. No call raises."""

    def __init__(self, socket: str) -> None:
        self._client = httpx.Client(
            transport=httpx.HTTPTransport(uds=socket, verify=False), base_url="http://envoy", timeout=_ASK_S
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def reopen_logs(self) -> None:
        """Has the access log opened anew, under its name."""
        try:
            self._client.post("/reopen_logs")
        except httpx.HTTPError:
            return  # one that starts opens it anyway

    def failed_writes(self) -> int | None:
        """How often Envoy could not write to a log since it started; None where it does not answer."""
        try:
            answer = self._client.get("/stats", params={"filter": f"^{_FAILED_WRITES}$"})
            return int(answer.text.partition(":")[2]) if answer.is_success else None
        except (httpx.HTTPError, ValueError):
            return None
