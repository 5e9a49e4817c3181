"""The control plane at size: compile and diff, and how long a one-line edit of a big policy takes to be live.

`python -m bench.live` measures this part alone.
"""

import os
import signal
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from bench.edges import compiler
from bench.procs import free_port, rss_mib, running, wait_port
from controlplane.runtime.changes import difference, utc_now

MODELS, KEYS = 1000, 10_000


@dataclass(frozen=True, slots=True)
class Compile:
    """Seconds, of one process with nothing cached (`first`) and with the unedited policy in its cache (`edit`)."""

    first: float
    edit: float


@dataclass(frozen=True, slots=True)
class Reload:
    """Milliseconds from the write of the file to the first answer by the new policy; MiB of the control plane."""

    live_ms: list[float]
    rss_mib: float


@dataclass(frozen=True, slots=True)
class Control:
    """All of it."""

    compiling: Compile
    reloads: Reload


def policy(port: int, admin: int, extra: str = "") -> str:
    models = "".join(f"  model-{i}: {{provider: up, model: upstream-{i}}}\n" for i in range(MODELS))
    keys = "".join(
        f'  key-{i}: {{secret: {{env: KEY_{i}}}, models: [model-{i % MODELS}, "model-1*"], limits: [standard]}}\n'
        for i in range(KEYS)
    )
    return (
        f"version: 1\ngateway: {{listen: 127.0.0.1:{port}, admin: 127.0.0.1:{admin}}}\n"
        "providers: {up: {kind: mock}}\n"
        f"models:\n{extra}{models}limits: {{standard: {{requests: 600/m}}}}\n"
        f"keys:\n  watcher: {{secret: {{env: KEY_watcher}}}}\n{keys}"
    )


def compile_times() -> Compile:
    made = compiler(Path("/run/mock.sock"))
    began = time.perf_counter()
    before = made.compile(policy(8080, 9800), utc_now())
    difference(None, before)
    first = time.perf_counter() - began
    began = time.perf_counter()
    after = made.compile(policy(8080, 9800, "  model-new: up\n"), utc_now())
    difference(before, after)
    return Compile(first, time.perf_counter() - began)


def reload_times(folder: Path, edits: int = 10) -> Reload:
    """Starts the whole gateway on the big policy, edits one line at a time, and asks for the new model."""
    port, admin = free_port(), free_port()
    file = folder / "policy.yaml"
    file.write_text(policy(port, admin))
    env = {**os.environ, **{f"KEY_{i}": f"sk-{i}" for i in (*range(KEYS), "watcher")}, "XDG_RUNTIME_DIR": str(folder)}
    argv = [".venv/bin/ctl", "up", str(file)]
    with running(argv, folder / "ctl.log", env=env) as ctl, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        wait_port(port, 60)
        times = []
        for edit in range(edits):
            time.sleep(0.5)  # a person's edits come one at a time
            name = f"fresh-{edit}"
            text = policy(port, admin, f"  {name}: up\n")
            began = time.perf_counter()
            file.write_text(text)
            _until_served(client, name)
            times.append((time.perf_counter() - began) * 1000)
        time.sleep(1)  # the last apply is still writing its history
        memory = rss_mib(ctl.pid)
        ctl.send_signal(signal.SIGINT)
        ctl.wait(60)
    return Reload(times, memory)


def _until_served(client: httpx.Client, model: str) -> None:
    deadline = time.monotonic() + 20
    headers = {"authorization": "Bearer sk-watcher"}
    while time.monotonic() < deadline:
        if client.get(f"/v1/models/{model}", headers=headers).status_code == 200:
            return
        time.sleep(0.005)
    raise TimeoutError(f"{model} is not served")


def measured(folder: Path) -> Control:
    return Control(compile_times(), reload_times(folder))


def section(found: Control) -> str:
    """The section of the page."""
    compiling, reloads = found.compiling, found.reloads
    return f"""\
A policy of {MODELS:,} models and {KEYS:,} keys, each key with permissions and a limit.

| | |
|---|---|
| compile and diff, nothing cached | {compiling.first:.2f} s |
| compile and diff after a one-line edit | {compiling.edit * 1000:.0f} ms |
| a one-line edit of the watched file is live (median of {len(reloads.live_ms)}, worst) | \
{statistics.median(reloads.live_ms):.0f} ms, {max(reloads.live_ms):.0f} ms |
| memory of the control plane after that | {reloads.rss_mib:.0f} MiB |
"""


def main() -> None:
    from bench.report import replace_section  # noqa: PLC0415 - draws plots, which is not needed to measure

    with tempfile.TemporaryDirectory(prefix="hg-bench-") as name:
        text = section(measured(Path(name)))
    print(text)
    replace_section("The control plane", text)


if __name__ == "__main__":
    main()
