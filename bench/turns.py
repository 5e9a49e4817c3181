"""A turn of an encoder: as many calls as fit into some seconds. Nothing but the standard library, for any environment.

A side that is measured in a process of its own answers lines of JSON, by `answer`; whoever measures asks with `ask`.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Turn:
    """Texts per second, milliseconds of CPU per text, and the median of the milliseconds of a call."""

    per_second: float
    cpu_ms: float
    p50_ms: float


def turn(
    encode: Callable[[list[str]], object], calls: list[list[str]], seconds: float, cpu_s: Callable[[], float]
) -> Turn:
    """Goes through `calls`, each a list of texts, over and over; one call at least."""
    began, cpu, done, took = time.perf_counter(), cpu_s(), 0, []
    while not took or time.perf_counter() - began < seconds:
        texts = calls[len(took) % len(calls)]
        start = time.perf_counter()
        encode(texts)
        took.append(1000 * (time.perf_counter() - start))
        done += len(texts)
    return Turn(done / (time.perf_counter() - began), 1000 * (cpu_s() - cpu) / done, sorted(took)[len(took) // 2])


def answer(encode: Callable[[list[str]], object]) -> None:
    """Has the process that started this one measure `encode`, until it closes the pipe."""
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(asdict(turn(encode, asked["calls"], asked["seconds"], time.process_time))), flush=True)


def wait_ready(process: "subprocess.Popen[str]") -> None:
    """Raises RuntimeError where the side ended instead."""
    assert process.stdout is not None
    if not process.stdout.readline():
        raise RuntimeError(f"{process.args} ended with {process.wait()}")


def ask(process: "subprocess.Popen[str]", calls: list[list[str]], seconds: float) -> Turn:
    """A turn in another process."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps({"calls": calls, "seconds": seconds}) + "\n")
    process.stdin.flush()
    return Turn(**json.loads(process.stdout.readline()))


def peak_mib(pid: int) -> float:
    """The most memory that a process has had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no memory")
