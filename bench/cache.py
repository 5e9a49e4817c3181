"""How long a cache hit takes through the gateway: one client, one request after another on one connection.

`python -m bench.cache` prints it. All processes share the machine's cores as they find them.
"""

import http.client
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench import edges
from bench.procs import envoy, free_port, running, wait_file, wait_port
from controlplane.xds.link import static_bootstrap
from extproc.server.settings import file_name

REQUESTS, WARM = 600, 100
_BODY = b'{"model":"model-7","messages":[{"role":"user","content":"%b"}]}' % (b"Why is the sea blue? " * 9)


@dataclass(frozen=True, slots=True)
class Took:
    """Milliseconds that a request takes: half of them at most, and 99 of 100."""

    name: str
    p50: float
    p99: float


def hits(folder: Path) -> list[Took]:
    """A request that bypasses the cache, a hit, and a hit told as a stream."""
    up, port = folder / "up.sock", free_port()
    edges.write_upstream(up, folder / "up.yaml")
    policy = (
        f"version: 1\ngateway: {{listen: 127.0.0.1:{port}, rule_workers: 1}}\nproviders: {{up: {{kind: mock}}}}\n"
        f"models:\n{''.join(f'  model-{i}: up{chr(10)}' for i in range(1000))}"
        "rules: [{do: [{cache: {scope: shared}}]}]\n"
    )
    around = edges.around(up, rules_socket=str(folder / "rules-{}.sock"))
    compiled = edges.compiler(up, around).compile(policy, datetime(2026, 1, 1, tzinfo=UTC))
    inline, caching = compiled.plan.inline, compiled.plan.caching
    assert inline is not None and caching is not None
    (folder / file_name(inline.version)).write_bytes(inline.document)
    (folder / "edge.pb").write_bytes(static_bootstrap(compiled.snapshot).SerializeToString(deterministic=True))
    cache, worker = str(folder / "cache.sock"), str(folder / "rules-0.sock")
    store = [sys.executable, "-m", "extproc.cache", "--socket", cache, "--memory", str(caching.memory)]
    rules = [sys.executable, "-m", "extproc.server", "--socket", worker, "--settings", str(folder), "--cache", cache]
    with ExitStack() as stack:
        for name, argv in (("up", envoy(folder / "up.yaml")), ("cache", store), ("rules-0", rules)):
            stack.enter_context(running(argv, folder / f"{name}.log"))
            wait_file(folder / f"{name}.sock")
        stack.enter_context(running(envoy(folder / "edge.pb"), folder / "edge.log"))
        wait_port(port)
        client = http.client.HTTPConnection("127.0.0.1", port)
        stack.callback(client.close)
        _fill(client)
        return [
            _took("bypassed", client, _BODY, "bypass"),
            _took("hit", client, _BODY, "hit"),
            _took("hit told as a stream", client, _BODY[:-1] + b',"stream":true}', "hit"),
        ]


def _fill(client: http.client.HTTPConnection) -> None:
    """The first request may come before the service is seen to be healthy."""
    deadline = time.monotonic() + 10
    while _ask(client, _BODY, {})[0] != "hit":
        if time.monotonic() > deadline:
            raise RuntimeError("nothing is cached")


def _took(name: str, client: http.client.HTTPConnection, body: bytes, expected: str) -> Took:
    headers = {"x-headgate-cache": expected} if expected == "bypass" else {}
    found = [_ask(client, body, headers) for _ in range(WARM + REQUESTS)][WARM:]
    if {word for word, _ in found} != {expected}:
        raise RuntimeError(f"not only {expected}")
    cuts = statistics.quantiles([took for _, took in found], n=100)
    return Took(name, cuts[49], cuts[98])


def _ask(client: http.client.HTTPConnection, body: bytes, headers: dict[str, str]) -> tuple[str | None, float]:
    began = time.perf_counter()
    client.request("POST", "/v1/chat/completions", body, {"content-type": "application/json", **headers})
    answer = client.getresponse()
    answer.read()
    return answer.getheader("x-headgate-cache"), 1000 * (time.perf_counter() - began)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="hg-bench-") as name:
        for took in hits(Path(name)):
            print(f"{took.name}: p50 {took.p50:.2f} ms, p99 {took.p99:.2f} ms")
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
