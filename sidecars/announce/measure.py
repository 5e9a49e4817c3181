"""How busy a service is, as it says itself: its health, its Prometheus metrics, its list of models."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import httpx

from sidecars.announce.client import Busy, ServiceAwayError

# (requests that wait, requests in work) of vLLM, SGLang, llama.cpp and Text Generation Inference
METRICS = (
    ("vllm:num_requests_waiting", "vllm:num_requests_running"),
    ("sglang:num_queue_reqs", "sglang:num_running_reqs"),
    ("llamacpp:requests_deferred", "llamacpp:requests_processing"),
    ("tgi_queue_size", "tgi_batch_current_size"),
)
# A line of Prometheus' text format: a name, perhaps labels, a value, perhaps a time.
_SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{.*\})?[ \t]+(\S+)(?:[ \t]+-?[0-9]+)?[ \t]*$", re.MULTILINE)
_MOST = 1_000_000  # more is no number of requests


@dataclass(frozen=True, slots=True)
class Measure:
    """Asks a service. `metrics` and `health` are URLs, `models` that of an OpenAI-style list; empty: not asked."""

    http: httpx.AsyncClient
    metrics: str = ""
    health: str = ""
    models: str = ""
    names: tuple[tuple[str, str], ...] = METRICS

    async def __call__(self) -> Busy:
        """Raises ServiceAwayError: it does not answer, or not as expected."""
        if self.health:
            await self._get(self.health)
        models = _models(await self._get(self.models)) if self.models else None
        if not self.metrics:
            return Busy(models=models)
        queue, running = busy((await self._get(self.metrics)).text, self.names)
        return Busy(queue, running, models)

    async def _get(self, url: str) -> httpx.Response:
        try:
            answer = await self.http.get(url)
        except httpx.HTTPError as error:
            raise ServiceAwayError(f"{url}: {error or type(error).__name__}") from None
        if not answer.is_success:
            raise ServiceAwayError(f"{url}: {answer.status_code}")
        return answer


def busy(text: str, names: Iterable[tuple[str, str]] = METRICS) -> tuple[int, int]:
    """Requests that wait and requests in work, of all models, from Prometheus text; 0 where it does not tell."""
    found: dict[str, int] = {}
    for name, value in _SAMPLE.findall(text):
        found[name] = found.get(name, 0) + _count(value)
    queue, running = next((pair for pair in names if any(name in found for name in pair)), ("", ""))
    return found.get(queue, 0), found.get(running, 0)


def _count(text: str) -> int:
    try:
        value = float(text)
    except ValueError:
        return 0
    return round(value) if 0 <= value <= _MOST else 0


def _models(answer: httpx.Response) -> tuple[str, ...]:
    try:
        return tuple(str(each["id"]) for each in answer.json()["data"])
    except (ValueError, KeyError, TypeError):
        raise ServiceAwayError(f"{answer.url}: no list of models") from None
