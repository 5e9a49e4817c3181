"""What strict limits cost: CPU of Envoy and of the rate limit service per request, against the same without limits."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import edges, load
from bench.procs import alone, cpu_us, envoy, free_port, running, wait_file, wait_port
from controlplane.xds import limiting
from extproc.limits.settings import dump

_MODELS = _KEYS = 10
_PLENTY = "1M/s"


@dataclass(frozen=True, slots=True)
class Strict:
    """CPU microseconds per request of Envoy and of the service, and requests per second."""

    name: str
    envoy_us: float
    service_us: float
    per_second: float


def policies(port: int) -> dict[str, str]:
    """One policy without limits, and the same with each kind that asks the service."""
    kinds = {
        "no limits": ("", ""),
        "tokens, strict": ("limits: [l]", f"limits: {{l: {{tokens: {_PLENTY}, burst: 4000000000, enforce: strict}}}}"),
        "concurrent": ("limits: [l]", "limits: {l: {concurrent: 1000}}"),
        "a strict budget in money": ("budget: b", "budgets: {b: {usd: 1000000, per: month, enforce: strict}}"),
        "all three": (
            "limits: [l], budget: b",
            f"limits: {{l: {{tokens: {_PLENTY}, burst: 4000000000, enforce: strict, concurrent: 1000}}}}\n"
            "budgets: {b: {usd: 1000000, per: month, enforce: strict}}",
        ),
        "tokens, strict, a fleet's": (
            "limits: [l]",
            f"limits: {{l: {{tokens: {_PLENTY}, burst: 4000000000, enforce: strict, scope: fleet}}}}",
        ),
    }
    return {name: _policy(port, key, rules, fleet="fleet" in rules) for name, (key, rules) in kinds.items()}


def _policy(port: int, key: str, rules: str, *, fleet: bool) -> str:
    redis = ", redis: {env: REDIS}" if fleet else ""
    models = "".join(f"  model-{i}: up\n" for i in range(_MODELS))
    keys = "".join(f"  key-{i}: {{secret: {{env: KEY_{i}}}, {key}}}\n" for i in range(_KEYS))
    prices = 'prices: {"model-*": {input: 1, output: 2}}\n'
    head = f"version: 1\ngateway: {{listen: 127.0.0.1:{port}{redis}}}\nproviders: {{up: {{kind: mock}}}}\n"
    return f"{head}models:\n{models}keys:\n{keys}{prices}{rules}\n"


def strict_costs(folder: Path, rounds: int, seconds: int) -> list[Strict]:
    """The least of some turns for each, which take turns; every turn is a fresh Envoy and a fresh service."""
    socket = folder / "limited.sock"
    edges.write_upstream(socket, folder / "limited.yaml")
    found: dict[str, list[Strict]] = {}
    redis = ["redis-server", "--port", "0", "--unixsocket", str(folder / "redis.sock"), "--save", ""]
    with ExitStack() as stack:
        stack.enter_context(running(envoy(folder / "limited.yaml"), folder / "limited.log"))
        stack.enter_context(running(redis, folder / "redis.log"))
        wait_file(socket)
        wait_file(folder / "redis.sock")
        for _ in range(rounds):
            for name in policies(0):
                found.setdefault(name, []).append(_turn(name, folder, socket, seconds))
    return [
        Strict(name, min(t.envoy_us for t in turns), min(t.service_us for t in turns), max(t.per_second for t in turns))
        for name, turns in found.items()
    ]


def _turn(name: str, folder: Path, socket: Path, seconds: int) -> Strict:
    port, config, script = free_port(), folder / "limits.pb", folder / "limits.lua"
    policy = policies(port)[name]
    edges.write_edge(policy, socket, config)
    load.write_script(script, models=_MODELS, keys=_KEYS)
    with _service(policy, folder, socket) as service, running(envoy(config), folder / "side.log") as process:
        wait_port(port)
        alone(process.pid)
        load.wrk(port, script, 1)
        before = cpu_us(process.pid), cpu_us(service) if service else 0
        done = load.wrk(port, script, seconds)
        after = cpu_us(process.pid), cpu_us(service) if service else 0
    return Strict(name, (after[0] - before[0]) / done, (after[1] - before[1]) / done, done / seconds)


@contextmanager
def _service(policy: str, folder: Path, socket: Path) -> Iterator[int | None]:
    """The service as the gateway starts it; its process, None where the policy needs none."""
    settings = limiting.lower(edges.compiled(policy, socket).plan)
    if settings is None:
        yield None
        return
    file, at, journal = folder / "limits.json", edges.limits_socket(socket), folder / "limits.journal"
    file.write_bytes(dump(settings))
    at.unlink(missing_ok=True)
    argv = [sys.executable, "-m", "extproc.limits", "--socket", str(at), "--settings", str(file)]
    env = {**os.environ, limiting.REDIS_URL: f"unix://{folder / 'redis.sock'}"}
    with running([*argv, "--journal", str(journal)], folder / "limits.log", env=env) as process:
        wait_file(at)
        yield process.pid
    journal.unlink(missing_ok=True)
