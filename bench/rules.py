"""What a rule costs: CPU of Envoy and of the service per request, requests per second of a worker, parts of streams.

`python -m bench.rules` prints it without the rest of the benchmarks.
"""

import os
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench import edges, load
from bench.procs import alone, among, apart, cpu_us, envoy, free_port, running, wait_file, wait_port
from controlplane.xds.link import static_bootstrap
from extproc.server.settings import file_name

ROUNDS, SECONDS, CHUNKS = 4, 2, 50
_SET = "{set: {temperature: 0}}"
_REDACT = "{redact: [email, credit_card]}"
_NO_RULE, _REDACTION = "no rule", "redaction of requests and answers (two messages)"
_POLICIES = {
    _NO_RULE: "",
    "a rule for other endpoints (no message)": f"rules: [{{when: {{path: /v1/embeddings}}, do: [{_SET}]}}]",
    "a rule for streams, of which there are none (no message)": f"rules: [{{when: {{stream: true}}, do: [{_SET}]}}]",
    "a parameter set (one message)": f"rules: [{{do: [{_SET}]}}]",
    _REDACTION: f"rules: [{{do: [{_REDACT}]}}]",
}


@dataclass(frozen=True, slots=True)
class Rule:
    """CPU microseconds per request, of Envoy and of the service, and requests per second on one worker."""

    name: str
    envoy_us: float
    service_us: float
    per_second: float


@dataclass(frozen=True, slots=True)
class Parts:
    """CPU microseconds per part of a redacted stream, of Envoy and of the service, the request itself taken off."""

    envoy_us: float
    service_us: float


@dataclass(frozen=True, slots=True)
class Costs:
    """All of it."""

    rules: list[Rule]
    parts: Parts


@dataclass(frozen=True, slots=True)
class Side:
    """A policy to measure, its processes running."""

    name: str
    port: int
    envoy: int
    service: int


def _started(name: str, rules: str, socket: Path, folder: Path, stack: ExitStack) -> Side:
    port = free_port()
    policy = (
        f"version: 1\ngateway: {{listen: 127.0.0.1:{port}, rule_workers: 1}}\nproviders: {{up: {{kind: mock}}}}\n"
        f"models:\n{''.join(f'  model-{i}: up{chr(10)}' for i in range(1000))}{rules}\n"
    )
    place = folder / f"{port}"
    place.mkdir()
    around = edges.around(socket, rules_socket=str(place / "rules-{}.sock"))
    compiled = edges.compiler(socket, around).compile(policy, datetime(2026, 1, 1, tzinfo=UTC))
    service = 0
    if compiled.plan.inline is not None:
        (place / file_name(compiled.plan.inline.version)).write_bytes(compiled.plan.inline.document)
        worker = place / "rules-0.sock"
        argv = [sys.executable, "-m", "extproc.server", "--socket", str(worker), "--settings", str(place)]
        service = stack.enter_context(running(argv, place / "rules.log")).pid
        wait_file(worker)
    file = place / "edge.pb"
    file.write_bytes(static_bootstrap(compiled.snapshot).SerializeToString(deterministic=True))
    process = stack.enter_context(running(envoy(file), place / "edge.log"))
    wait_port(port)
    return Side(name, port, process.pid, service)


def request_costs(folder: Path) -> list[Rule]:
    """A chat request of about 250 bytes and a short answer."""
    socket = folder / "up.sock"
    edges.write_upstream(socket, folder / "up.yaml")
    found: dict[str, list[Rule]] = {}
    with ExitStack() as stack:
        stack.enter_context(running(envoy(folder / "up.yaml"), folder / "up.log"))
        wait_file(socket)
        sides = [_started(name, rules, socket, folder, stack) for name, rules in _POLICIES.items()]
        script = folder / "load.lua"
        load.write_script(script)
        for turn in range(ROUNDS + 1):
            for side in sides:
                measured = _turn(side, script)
                if turn:
                    found.setdefault(side.name, []).append(measured)
    return [
        Rule(
            name,
            min(turn.envoy_us for turn in turns),
            min(turn.service_us for turn in turns),
            max(turn.per_second for turn in turns),
        )
        for name, turns in found.items()
    ]


def rule_costs(folder: Path) -> Costs:
    """Of requests, and of the parts of a redacted stream."""
    rules = request_costs(folder)
    return Costs(rules, part_costs(folder, {rule.name: rule for rule in rules}))


def part_costs(folder: Path, once: dict[str, Rule]) -> Parts:
    """A redacted stream, less the same stream without a rule and what the request costs."""
    socket = folder / "sse.sock"
    python = [sys.executable, "-m", "bench.sse", str(socket), str(CHUNKS)]
    with ExitStack() as stack:
        stack.enter_context(running(python, folder / "sse.log"))
        wait_file(socket)
        plain, redacted = (_started(name, _POLICIES[name], socket, folder, stack) for name in (_NO_RULE, _REDACTION))
        script = folder / "stream.lua"
        load.write_script(script, stream=True)
        turns = [[_turn(side, script) for side in (plain, redacted)] for _ in range(ROUNDS + 1)][1:]
    envoy_us = min(turn[1].envoy_us for turn in turns) - min(turn[0].envoy_us for turn in turns)
    service_us = min(turn[1].service_us for turn in turns)
    asked = once[_REDACTION].envoy_us - once[_NO_RULE].envoy_us, once[_REDACTION].service_us
    return Parts((envoy_us - asked[0]) / CHUNKS, (service_us - asked[1]) / CHUNKS)


def _turn(side: Side, script: Path) -> Rule:
    """Each process is measured while it has a core of its own; requests per second are those of the service so."""
    envoy_us, rate = _measured(side.envoy, side.service, side.port, script)
    if not side.service:
        return Rule(side.name, envoy_us, 0, rate)
    service_us, rate = _measured(side.service, side.envoy, side.port, script)
    return Rule(side.name, envoy_us, service_us, rate)


def _measured(pid: int, other: int, port: int, script: Path) -> tuple[float, float]:
    """CPU per request of a process, and requests per second."""
    alone(pid)
    if other:
        among(other)
    before = cpu_us(pid)
    done = load.wrk(port, script, SECONDS)
    return (cpu_us(pid) - before) / done, done / SECONDS


def main() -> None:
    apart()
    print(f"load average before: {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(prefix="hg-bench-") as name:
        costs = rule_costs(Path(name))
    for rule in costs.rules:
        print(f"{rule.name}: Envoy {rule.envoy_us:.0f} us, service {rule.service_us:.0f} us, {rule.per_second:.0f}/s")
    parts = costs.parts
    print(f"a part of a redacted stream: Envoy {parts.envoy_us:.1f} us, service {parts.service_us:.1f} us")
    print(f"load average after: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
