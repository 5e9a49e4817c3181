"""`make bench`: measures, and writes docs/benchmarks.md with a plot. Nothing here is a test; nothing else should run.

CPU is user and system time of the Envoy process per request. The processes compared are measured in turns, and the
median of the turns counts, so that what else the machine does hits all of them alike.
"""

import asyncio
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench import edges, live, load, report
from bench.procs import cpu_us, envoy, free_port, running, wait_file, wait_port

ROUNDS, SECONDS = 7, 2


def request_costs(folder: Path) -> list[report.Cost]:
    """CPU and throughput of a 250-byte chat request, of bare Envoy and of each edge."""
    socket = folder / "up.sock"
    edges.write_upstream(socket, folder / "up.yaml")
    with ExitStack() as stack:
        stack.enter_context(running(envoy(folder / "up.yaml"), folder / "up.log"))
        wait_file(socket)
        sides = [_bare(stack, folder, socket)]
        for number, edge in enumerate(edges.edges(0)):
            port = free_port()
            file = folder / f"edge-{number}.pb"
            edges.write_edge(edge.policy.replace("127.0.0.1:0", f"127.0.0.1:{port}"), socket, file)
            sides.append((edge.name, port, stack.enter_context(running(envoy(file), folder / "edge.log")).pid))
        models = [1, 10, 1000, 10_000, 1000, 1000]
        for _, port, _ in sides:
            wait_port(port)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name, _, _ in sides}
        for turn in range(ROUNDS + 1):
            for (name, port, pid), number in zip(sides, models, strict=True):
                script = folder / "load.lua"
                load.write_script(script, models=number)
                before = cpu_us(pid)
                done = load.wrk(port, script, SECONDS)
                if turn:  # the first warms up
                    found[name].append(((cpu_us(pid) - before) / done, done / SECONDS))
    return [
        report.Cost(name, statistics.median(cpu for cpu, _ in turns), statistics.median(rate for _, rate in turns))
        for name, turns in found.items()
    ]


def _bare(stack: ExitStack, folder: Path, socket: Path) -> tuple[str, int, int]:
    port = free_port()
    edges.write_bare(port, socket, folder / "bare.yaml")
    process = stack.enter_context(running(envoy(folder / "bare.yaml"), folder / "bare.log"))
    return "bare Envoy", port, process.pid


def stream_costs(folder: Path, chunks: int = 50) -> report.Streams:
    """CPU per chunk of a streamed answer, latency and time to first token, bare and through the edge."""
    socket, port = folder / "sse.sock", free_port()
    python = [sys.executable, "-m", "bench.sse", str(socket), str(chunks)]
    edge = edges.edges(port)[1]
    edges.write_edge(edge.policy, socket, folder / "sse.pb")
    with ExitStack() as stack:
        stack.enter_context(running(python, folder / "sse.log"))
        wait_file(socket)
        _, bare_port, bare_pid = _bare(stack, folder, socket)
        edge_pid = stack.enter_context(running(envoy(folder / "sse.pb"), folder / "edge.log")).pid
        wait_port(port)
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
    bare, through = statistics.median(costs[bare_pid]), statistics.median(costs[edge_pid])
    return report.Streams(chunks, bare, through, firsts[bare_port], firsts[port])


def answer_latencies(folder: Path) -> tuple[list[float], list[float]]:
    """Seconds to the first byte of a plain answer: bare, and through the edge."""
    socket, port = folder / "lat.sock", free_port()
    edges.write_upstream(socket, folder / "lat.yaml")
    edges.write_edge(edges.edges(port)[1].policy, socket, folder / "lat.pb")
    with ExitStack() as stack:
        stack.enter_context(running(envoy(folder / "lat.yaml"), folder / "lat.log"))
        wait_file(socket)
        _, bare_port, _ = _bare(stack, folder, socket)
        stack.enter_context(running(envoy(folder / "lat.pb"), folder / "edge.log"))
        wait_port(port)
        for at in (bare_port, port):
            asyncio.run(load.latencies(at, stream=False, number=500))
        bare = asyncio.run(load.latencies(bare_port, stream=False, number=4000))
        return bare, asyncio.run(load.latencies(port, stream=False, number=4000))


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="hg-bench-") as name:
        folder = Path(name)
        costs = request_costs(folder)
        streams = stream_costs(folder)
        plain = answer_latencies(folder)
        compiling = live.compile_times()
        reloads = live.reload_times(folder)
    report.write(costs, streams, plain, compiling, reloads, SECONDS)


if __name__ == "__main__":
    main()
