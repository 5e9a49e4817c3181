"""Figures -> docs/benchmarks.md and its plot."""

import os
import platform
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl

from controlplane.runtime.envoy import envoy_binary

if TYPE_CHECKING:
    from bench.accounting import Collecting
    from bench.limits import Strict
    from bench.rules import Costs

DOCS = Path(__file__).parents[1] / "docs"


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU microseconds of the Envoy process per request, and requests per second on one worker."""

    name: str
    cpu_us: float
    per_second: float


@dataclass(frozen=True, slots=True)
class Streams:
    """CPU microseconds per streamed answer of `chunks` chunks; seconds to the first token of each request."""

    chunks: int
    bare_us: float
    edge_us: float
    bare_first: list[float]
    edge_first: list[float]


def _rows(costs: list[Cost]) -> str:
    bare = costs[0].cpu_us
    return "\n".join(f"| {c.name} | {c.cpu_us:.0f} | {c.cpu_us / bare:.2f} | {c.per_second:,.0f} |" for c in costs)


def _strict(costs: "list[Strict]") -> str:
    return "\n".join(f"| {c.name} | {c.envoy_us:.0f} | {c.service_us:.0f} | {c.per_second:,.0f} |" for c in costs)


def _rules(costs: "Costs") -> str:
    rows = [
        (rule.name, f"{rule.envoy_us:.0f}", f"{rule.service_us:.0f}", f"{rule.per_second:,.0f}") for rule in costs.rules
    ]
    parts = costs.parts
    rows.append(("a part of a redacted stream", f"{parts.envoy_us:.1f}", f"{parts.service_us:.1f}", ""))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def write(
    costs: list[Cost],
    connecting: list[Cost],
    streams: Streams,
    plain: tuple[list[float], list[float]],
    collecting: "Collecting",
    strict: "list[Strict]",
    inline: "Costs",
    encoding: str,
    control: str,
    turn_s: int,
) -> None:
    """Writes the page and prints it."""
    bare = costs[0]
    # What a request costs once must not be counted as a cost of its chunks.
    once = costs[2].cpu_us - bare.cpu_us
    per_chunk = max(0.0, streams.edge_us - streams.bare_us - once) / streams.chunks
    page = f"""# Benchmarks

`make bench` measures and writes this page. Last run on {platform.machine()}, {os.cpu_count()} cores, Linux
{platform.release()}, Envoy {envoy_binary().version}, one Envoy worker, upstream on a unix socket.

## What a request costs

CPU time (user and system) of the Envoy process for one chat request of about 250 bytes, 16 connections. Bare Envoy
proxies to the same upstream in the same run. They take turns of {turn_s} seconds, every turn is a fresh process on a
core of its own, and the least of its turns counts: what else a shared machine does can only add. Wall times there are
noise.

| | CPU µs / request | × bare | requests / s |
|---|---|---|---|
{_rows(costs)}

The same against an upstream that ends the connection after every answer, so that bare Envoy too connects for each
request:

| | CPU µs / request | × bare | requests / s |
|---|---|---|---|
{_rows(connecting)}

![CPU per request](benchmarks.svg)

## Streams

| | bare Envoy | edge |
|---|---|---|
| CPU µs of a streamed answer of {streams.chunks} chunks | {streams.bare_us:.0f} | {streams.edge_us:.0f} |
| added CPU µs per chunk, the cost of the request itself taken off | | {per_chunk:.2f} |

## Latency

Four connections, one request at a time on each, to the first byte of the body. 1,000 models and 1,000 keys.

| | bare p50 | edge p50 | added | bare p99 | edge p99 | added |
|---|---|---|---|---|---|---|
{_latency("plain answer", *plain)}
{_latency("first token of a stream", streams.bare_first, streams.edge_first)}

## Accounting

What Envoy pays for it is in the first table: a line of the access log, a note of the request, reading the answer's
usage. The collector, off the request path, takes {collecting.cpu_us:.0f} CPU µs per record, at
{collecting.per_second:,.0f} records per second into SQLite (100 keys, 10 models).

## Strict limits

CPU time per request of Envoy and of the rate limit service, 10 models and 10 keys, 16 connections. Envoy
makes two calls a request, shared by all limits of the request. The service is one process, so one core of it bounds the
requests per second of such limits.

| | Envoy µs / request | service µs / request | requests / s |
|---|---|---|---|
{_strict(strict)}

## Rules

CPU time per request of Envoy and of the service that runs rules, one worker of each, 1,000 models, 16 connections, a
chat request of about 250 bytes and a short answer. Each is measured while it has a core of its own; all the other
processes share the other one, so what is printed as requests per second is bounded by them as much as by the worker.

| | Envoy µs | service µs | requests / s |
|---|---|---|---|
{_rules(inline)}

## Local inference

{encoding}
## The control plane

{control}"""
    (DOCS / "benchmarks.md").write_text(page)
    _plot(costs)
    print(page)


def replace_section(heading: str, text: str) -> None:
    """Writes one section of the page anew, and leaves the others."""
    page = (DOCS / "benchmarks.md").read_text()
    before, _, rest = page.partition(f"## {heading}\n")
    if not rest:
        raise RuntimeError(f"the page has no section '{heading}'")
    _, mark, after = rest.partition("\n## ")
    (DOCS / "benchmarks.md").write_text(f"{before}## {heading}\n\n{text}{mark}{after}")


def _latency(name: str, bare: list[float], edge: list[float]) -> str:
    def at(values: list[float], percent: int) -> float:
        return statistics.quantiles(values, n=100)[percent - 1] * 1000

    cells = [f"{at(bare, p):.2f} | {at(edge, p):.2f} | {at(edge, p) - at(bare, p):.2f}" for p in (50, 99)]
    return f"| {name} (ms) | {' | '.join(cells)} |"


def _plot(costs: list[Cost]) -> None:
    mpl.use("svg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the backend is chosen

    mpl.rcParams["svg.hashsalt"] = "headgate"  # the same figures give the same file
    figure, axes = plt.subplots(figsize=(8, 3.2))
    names, values = [c.name for c in costs][::-1], [c.cpu_us for c in costs][::-1]
    axes.barh(names, values, color=["#2f6f9f"] * (len(costs) - 1) + ["#9aa5ad"])
    axes.axvline(costs[0].cpu_us * 1.5, color="#b3412f", linestyle="--", linewidth=1)
    axes.annotate("1.5 × bare", (costs[0].cpu_us * 1.5, len(costs) - 0.45), color="#b3412f", fontsize=8, ha="center")
    for place, value in enumerate(values):
        axes.annotate(f"{value:.0f}", (value, place), xytext=(4, -3), textcoords="offset points", fontsize=8)
    axes.set_xlabel("CPU µs per request (Envoy process)")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(DOCS / "benchmarks.svg", metadata={"Date": None})
