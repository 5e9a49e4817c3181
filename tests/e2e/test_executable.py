"""The command as it is installed. Other tests fork it from a process that has done its imports."""

import subprocess
import sys
from pathlib import Path


def test_the_installed_command_runs(tmp_path: Path) -> None:
    ctl = Path(sys.executable).with_name("ctl")
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 1\nproviders: {p: {kind: mock}}\nmodels: {m: q}\n")
    done = subprocess.run([ctl, "validate", policy], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "there is no provider or model `q`" in done.stderr
