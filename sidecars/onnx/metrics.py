"""What is counted, for Prometheus: requests, runs, queues, and the life of the models."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from sidecars.onnx.engine import Ran

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a model is at the moment."""

    model: str
    state: str
    requests: int
    waiting_sequences: int
    waiting_tokens: int
    memory_bytes: int


class Metrics:
    """All metrics of one service. A label `model` only ever holds a name from the settings, or nothing."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests answered.", "model", "operation", "status")
        self.seconds = self._histogram("request_seconds", "Time to the answer.", _SECONDS, "model", "operation")
        self.tokens = self._counter("tokens", "Tokens fed, padding not included.", "model")
        self.padding = self._counter("padding_tokens", "Padding fed.", "model")
        self.batches = self._histogram("batch_sequences", "Sequences fed at once.", _SIZES, "model")
        self.run_seconds = self._histogram("run_seconds", "Time of a run of the model.", _SECONDS, "model")
        self.generated = self._counter("generated_tokens", "Tokens generated.", "model")
        self.first_token_seconds = self._histogram(
            "first_token_seconds", "Time to the first token of an answer.", _SECONDS, "model"
        )
        self.loads = self._counter("loads", "Loads of a model, by how they ended.", "model", "result")
        self.load_seconds = self._histogram("load_seconds", "Time to load and warm up.", _SECONDS, "model")
        self.unloads = self._counter("unloads", "Models unloaded, by why.", "model", "reason")

    def watch(self, read: Callable[[], Iterable[Reading]]) -> None:
        """Has `read` asked whenever the metrics are."""
        self._registry.register(_Gauges(read))

    def runs_of(self, model: str) -> "Runs":
        return Runs(self, model)

    def text(self) -> bytes:
        return generate_latest(self._registry)

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(f"headgate_onnx_{name}", what, labels, registry=self._registry)

    def _histogram(self, name: str, what: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"headgate_onnx_{name}", what, labels, buckets=buckets, registry=self._registry)


class Runs:
    """Counts the runs of one model."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._tokens = metrics.tokens.labels(model)
        self._padding = metrics.padding.labels(model)
        self._sequences = metrics.batches.labels(model)
        self._seconds = metrics.run_seconds.labels(model)
        self._metrics, self._model = metrics, model

    def ran(self, ran: Ran) -> None:
        self._tokens.inc(ran.real)
        self._padding.inc(ran.padded - ran.real)
        self._sequences.observe(ran.sequences)
        self._seconds.observe(ran.seconds)

    def generated(self, tokens: int) -> None:
        self._metrics.generated.labels(self._model).inc(tokens)

    def began(self, seconds: float) -> None:
        """A first token, so long after it was asked for."""
        self._metrics.first_token_seconds.labels(self._model).observe(seconds)


class _Gauges(Collector):
    """Read when asked, so that nothing has to be kept up to date."""

    def __init__(self, read: Callable[[], Iterable[Reading]]) -> None:
        self._read = read

    def collect(self) -> Iterator[GaugeMetricFamily]:
        labels = ("model",)
        state = GaugeMetricFamily(
            "headgate_onnx_model_state", "1 for the state a model is in.", labels=("model", "state")
        )
        requests = GaugeMetricFamily("headgate_onnx_open_requests", "Requests in work.", labels=labels)
        sequences = GaugeMetricFamily("headgate_onnx_waiting_sequences", "Sequences that wait.", labels=labels)
        tokens = GaugeMetricFamily("headgate_onnx_waiting_tokens", "Tokens that wait.", labels=labels)
        memory = GaugeMetricFamily("headgate_onnx_memory_bytes", "Memory that a loaded model counts.", labels=labels)
        for one in self._read():
            state.add_metric((one.model, one.state), 1)
            requests.add_metric((one.model,), one.requests)
            sequences.add_metric((one.model,), one.waiting_sequences)
            tokens.add_metric((one.model,), one.waiting_tokens)
            memory.add_metric((one.model,), one.memory_bytes)
        yield from (state, requests, sequences, tokens, memory)
