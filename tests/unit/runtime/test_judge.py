"""Envoy's verdict: its own words, and nothing secret in them."""

import asyncio
import os
import tempfile
from pathlib import Path

import pytest
from envoy.config.bootstrap.v3 import bootstrap_pb2 as bootstrap
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm

from controlplane.policy.secrets import Secret
from controlplane.runtime.judge import Verdict, in_envoys_words, judge
from controlplane.xds.protos import pack

SECRET = "sk-very-secret"


@pytest.fixture(autouse=True)
def private_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def edge(status: int = 200, prefix: str = "edge") -> bytes:
    manager = hcm.HttpConnectionManager(stat_prefix=prefix)
    route = manager.route_config.virtual_hosts.add(name="all", domains=["*"]).routes.add()
    route.match.prefix = "/"
    route.direct_response.status = status
    route.direct_response.body.inline_string = SECRET
    made = bootstrap.Bootstrap()
    listener = made.static_resources.listeners.add(name="edge", address={"pipe": {"path": "/tmp/x.sock"}})
    listener.filter_chains.add().filters.add(name="http", typed_config=pack(manager))
    return made.SerializeToString(deterministic=True)


def script(folder: Path, text: str) -> Path:
    path = folder / "envoy-script"
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


async def test_a_good_bootstrap_is_taken(private_files: Path) -> None:
    made = bootstrap.Bootstrap.FromString(edge())
    manager = hcm.HttpConnectionManager()
    filters = made.static_resources.listeners[0].filter_chains[0].filters[0]
    filters.typed_config.Unpack(manager)
    manager.http_filters.add(
        name="envoy.filters.http.router"
    ).typed_config.type_url = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
    filters.typed_config.CopyFrom(pack(manager))
    assert await judge(made.SerializeToString(deterministic=True)) == Verdict(True)
    assert list(private_files.iterdir()) == []


async def test_a_wrong_one_is_refused_in_one_line_that_names_the_field(private_files: Path) -> None:
    verdict = await judge(edge(status=20))
    assert verdict == Verdict(
        False,
        "RouteConfig.VirtualHosts[0].Routes[0].DirectResponse.Status: value must be inside range [200, 600)",
    )
    assert list(private_files.iterdir()) == []


async def test_a_missing_cluster_is_named() -> None:
    made = bootstrap.Bootstrap()
    made.static_resources.clusters.add(name="openai", connect_timeout={"seconds": 1}).type = 3  # EDS
    verdict = await judge(made.SerializeToString())
    assert not verdict.ok
    assert "cluster" in verdict.message
    assert "\n" not in verdict.message
    assert "[critical]" not in verdict.message


async def test_the_bootstrap_lies_in_a_private_file(private_files: Path) -> None:
    binary = script(private_files, 'stat -c "%a %s" "$(dirname "$4")" "$4" | tr "\\n" " " >&2; exit 1')
    verdict = await judge(b"12345", envoy=binary)
    assert verdict.message.startswith("700 ")
    assert verdict.message.endswith(" 600 5")


async def test_envoy_gets_nothing_of_our_environment(private_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    verdict = await judge(b"", envoy=script(private_files, 'echo "key: <$OPENAI_API_KEY>" >&2; exit 1'))
    assert verdict.message == "key: <>"


async def test_an_envoy_that_hangs_is_ended(private_files: Path) -> None:
    binary = script(private_files, 'echo $$ > "$(dirname "$0")/pid"; exec sleep 600')
    for within_s in (0.3, 3, 30):  # as long as the script takes to begin
        verdict = await judge(b"", within_s, envoy=binary)
        assert verdict == Verdict(False, f"Envoy did not judge the configuration within {within_s:g} s")
        if (private_files / "pid").exists() and (private_files / "pid").read_text():
            break
    assert not _alive(private_files / "pid")
    assert {file.name for file in private_files.iterdir()} == {"envoy-script", "pid"}


async def test_cancelling_ends_envoy_and_removes_the_file(private_files: Path) -> None:
    binary = script(private_files, 'echo $$ > "$(dirname "$0")/pid"; exec sleep 600')
    task = asyncio.create_task(judge(b"", envoy=binary))
    async with asyncio.timeout(30):
        while not (private_files / "pid").exists() or not (private_files / "pid").read_text():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not _alive(private_files / "pid")
    assert {file.name for file in private_files.iterdir()} == {"envoy-script", "pid"}


async def test_a_crash_is_said(private_files: Path) -> None:
    verdict = await judge(b"", envoy=script(private_files, "kill -SEGV $$"))
    assert verdict == Verdict(False, "Envoy was ended by SIGSEGV while it judged the configuration")


def test_words_hold_no_dump_and_no_secret() -> None:
    text = (
        "Error adding/updating listener(s) edge: goo.gle/debugstr  \n"
        f'inline_string: "{SECRET}"\n'
        ": Proto constraint validation failed (AValidationError.B[0]: embedded message failed validation"
        " | caused by CValidationError.D: value must be (x) long)\n"
        "limits: goo.gle/debugonly \n"
        f'secret: "{SECRET}"\n'
        ": bad\n"
    )
    assert in_envoys_words(text) == "Error adding/updating listener(s) edge: B[0].D: value must be (x) long limits: bad"
    assert in_envoys_words(f"no file {SECRET}", [Secret(SECRET)]) == "no file [redacted]"
    assert in_envoys_words("x" * 5000) == "x" * 1000 + "…"
    assert in_envoys_words("") == ""


def _alive(file: Path) -> bool:
    try:
        os.kill(int(file.read_text()), 0)
    except ProcessLookupError:
        return False
    return True
