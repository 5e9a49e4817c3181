"""`make bench`: measures, and writes docs/benchmarks.md with a plot. Nothing here is a test; nothing else should run.

CPU is user and system time of the Envoy process per request. What is compared is measured in turns, and the least of
the turns counts, since whatever else the machine does can only add. The measured process has a core of its own.
"""

import asyncio
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from bench import edges, live, load, onnx, report
from bench.accounting import collector_costs
from bench.limits import strict_costs
from bench.procs import alone, apart, cpu_us, envoy, free_port, running, wait_file, wait_port
from bench.rules import rule_costs

ROUNDS, SECONDS = 7, 2
FIRST = 4  # sides: bare Envoy, and what the targets are about


def request_costs(folder: Path, *, keep: bool = True) -> list[report.Cost]:
    """CPU and throughput of a 250-byte chat request, of bare Envoy and of each edge."""
    socket = folder / ("kept.sock" if keep else "closed.sock")
    edges.write_upstream(socket, folder / "up.yaml", keep=keep)
    found: dict[str, list[tuple[float, float]]] = {}
    with running(envoy(folder / "up.yaml"), folder / "up.log"):
        wait_file(socket)
        sides = list(_sides(folder, socket))
        first = sides[:FIRST]  # the connections of one policy tell those of all
        turns = [first, sides] if keep else [first]  # twice as many for what is held against a target
        for side in chain.from_iterable(turns * ROUNDS):
            found.setdefault(side.name, []).append(_turn(side, folder))
    return [
        report.Cost(name, min(cpu for cpu, _ in turns), max(rate for _, rate in turns)) for name, turns in found.items()
    ]


@dataclass(frozen=True, slots=True)
class Side:
    """An Envoy to measure: its bootstrap, its port, and how many models requests ask for."""

    name: str
    config: Path
    port: int
    models: int


def _sides(folder: Path, socket: Path) -> Iterator[Side]:
    port = free_port()
    edges.write_bare(port, socket, folder / "bare.yaml")
    yield Side("bare Envoy", folder / "bare.yaml", port, 1)
    for number, edge in enumerate(edges.edges(0)):
        port, file = free_port(), folder / f"edge-{number}.pb"
        edges.write_edge(
            edge.policy.replace("127.0.0.1:0", f"127.0.0.1:{port}"), socket, file, accounting=edge.accounting
        )
        yield Side(edge.name, file, port, edge.models)


def _turn(side: Side, folder: Path) -> tuple[float, float]:
    """CPU per request and requests per second of a fresh process: where its memory lies makes some percent."""
    (folder / "requests.log").unlink(missing_ok=True)
    script = folder / "load.lua"
    load.write_script(script, models=side.models)
    with running(envoy(side.config), folder / "side.log") as process:
        wait_port(side.port)
        alone(process.pid)
        load.wrk(side.port, script, 1)
        before = cpu_us(process.pid)
        done = load.wrk(side.port, script, SECONDS)
        return (cpu_us(process.pid) - before) / done, done / SECONDS


def _bare(stack: ExitStack, folder: Path, socket: Path) -> tuple[int, int]:
    port = free_port()
    edges.write_bare(port, socket, folder / "bare.yaml")
    process = stack.enter_context(running(envoy(folder / "bare.yaml"), folder / "bare.log"))
    return port, process.pid


def stream_costs(folder: Path, chunks: int = 50) -> report.Streams:
    """CPU per chunk of a streamed answer, latency and time to first token, bare and through the edge."""
    socket, port = folder / "sse.sock", free_port()
    python = [sys.executable, "-m", "bench.sse", str(socket), str(chunks)]
    edge = edges.edges(port)[1]
    edges.write_edge(edge.policy, socket, folder / "sse.pb")
    with ExitStack() as stack:
        stack.enter_context(running(python, folder / "sse.log"))
        wait_file(socket)
        bare_port, bare_pid = _bare(stack, folder, socket)
        edge_pid = stack.enter_context(running(envoy(folder / "sse.pb"), folder / "edge.log")).pid
        wait_port(port)
        alone(bare_pid)
        alone(edge_pid)
        script = folder / "stream.lua"
        load.write_script(script, stream=True)
        costs: dict[int, list[float]] = {bare_pid: [], edge_pid: []}
        for turn in range(ROUNDS + 1):
            for pid, at in ((bare_pid, bare_port), (edge_pid, port)):
                before = cpu_us(pid)
                done = load.wrk(at, script, SECONDS)
                if turn:
                    costs[pid].append((cpu_us(pid) - before) / done)
        firsts = {at: asyncio.run(load.latencies(at, stream=True, number=2000)) for at in (bare_port, port)}
    bare, through = min(costs[bare_pid]), min(costs[edge_pid])
    return report.Streams(chunks, bare, through, firsts[bare_port], firsts[port])


def answer_latencies(folder: Path) -> tuple[list[float], list[float]]:
    """Seconds to the first byte of a plain answer: bare, and through the edge."""
    socket, port = folder / "lat.sock", free_port()
    edges.write_upstream(socket, folder / "lat.yaml")
    edges.write_edge(edges.edges(port)[1].policy, socket, folder / "lat.pb")
    with ExitStack() as stack:
        stack.enter_context(running(envoy(folder / "lat.yaml"), folder / "lat.log"))
        wait_file(socket)
        bare_port, _ = _bare(stack, folder, socket)
        stack.enter_context(running(envoy(folder / "lat.pb"), folder / "edge.log"))
        wait_port(port)
        for at in (bare_port, port):
            asyncio.run(load.latencies(at, stream=False, number=500))
        bare = asyncio.run(load.latencies(bare_port, stream=False, number=4000))
        return bare, asyncio.run(load.latencies(port, stream=False, number=4000))


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="hg-bench-") as name:
        folder = Path(name)
        # First what takes all processors.
        encoding = onnx.encoding()
        control = live.measured(folder)
        apart()
        costs = request_costs(folder)
        connecting = request_costs(folder, keep=False)
        streams = stream_costs(folder)
        plain = answer_latencies(folder)
        collecting = collector_costs(folder)
        strict = strict_costs(folder, ROUNDS, SECONDS)
        inline = rule_costs(folder)
    report.write(
        costs,
        connecting,
        streams,
        plain,
        collecting,
        strict,
        inline,
        onnx.section(encoding),
        live.section(control),
        SECONDS,
    )


if __name__ == "__main__":
    main()
