"""docs/audit.md: its script verifies a log, and its table names every action."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from controlplane.audit.entry import SYSTEM, Action, Event
from controlplane.audit.log import AuditLog
from controlplane.audit.settings import Settings
from controlplane.audit.verify import head

PAGE = (Path(__file__).parents[3] / "docs/audit.md").read_text(encoding="utf-8")
(SCRIPT,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-c", SCRIPT, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    log = AuditLog.open(tmp_path, Settings(segment_bytes=1000, keep_bytes=2500))
    for number in range(20):
        log.append(Event(SYSTEM, Action.KEY_ISSUED, 'clé 鍵 🔑 \u2028 \x01 "', {"number": number}))
    return tmp_path


def test_the_script_of_the_page_verifies_a_log_and_prints_its_head(folder: Path) -> None:
    done = run(folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{head(folder)}\n", "")


def test_the_script_of_the_page_finds_an_edit(folder: Path) -> None:
    path = min(folder.glob("*.jsonl"))
    path.write_bytes(path.read_bytes().replace(b'"number":', b'"number":1', 1))
    done = run(folder)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{path.name}:1: entry {int(path.stem)} is not what was written")


@pytest.mark.parametrize("action", list(Action))
def test_every_action_is_in_the_table(action: Action) -> None:
    assert any(f"`{action}`" in line for line in PAGE.splitlines() if line.startswith("| `"))
