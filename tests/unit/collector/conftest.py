from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.collector.given import Place


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    made.document()
    yield made
    made.close()
