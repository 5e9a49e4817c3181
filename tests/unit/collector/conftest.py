import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from extproc.usage.ledger import Ledger
from tests.unit.collector.given import Place


@pytest.fixture(scope="session")
def empty_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger's file with its tables: to make them takes longer than most tests."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    Ledger.open(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def place(tmp_path: Path, empty_ledger: Path) -> Iterator[Place]:
    shutil.copy(empty_ledger, tmp_path / "ledger.db")
    made = Place(tmp_path)
    made.document()
    yield made
    made.close()
