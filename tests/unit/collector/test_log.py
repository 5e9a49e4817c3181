"""The access log as a queue: blocks, torn lines, files put aside."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.usage import log
from extproc.usage.entries import EntryError, parse
from tests.unit.collector.given import line


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "requests.log"


def everything(path: Path, name: str = "x", *, last: bool = False) -> list[tuple[int, bytes]]:
    """All lines, read block by block."""
    found: list[tuple[int, bytes]] = []
    position = 0
    while True:
        block = log.read(path, name, position, last=last)
        assert block.start == position
        if not block.content:
            return found
        assert block.end == position + len(block.content)
        found += block.lines()
        position = block.end


def test_lines_and_where_they_begin(path: Path) -> None:
    path.write_bytes(line(1) + line(2) + b"\n" + line(3))
    found = everything(path)
    assert [content + b"\n" for _, content in found] == [line(1), line(2), line(3)]
    assert all(path.read_bytes()[at:].startswith(content) for at, content in found)


def test_a_line_that_is_still_written_waits(path: Path) -> None:
    path.write_bytes(line(1) + line(2)[:-30])
    assert len(everything(path)) == 1
    path.write_bytes(line(1) + line(2))
    block = log.read(path, "x", len(line(1)))
    assert list(block.lines()) == [(len(line(1)), line(2)[:-1])]


def test_a_torn_line_does_not_take_the_next_one_with_it(path: Path) -> None:
    torn = line(1)[:100]
    path.write_bytes(line(0) + torn + line(2) + line(3))
    found = [content for _, content in everything(path)]
    assert found == [line(0)[:-1], torn, line(2)[:-1], line(3)[:-1]]


def _is_whole(content: bytes) -> bool:
    try:
        parse(content)
    except EntryError:
        return False
    return True


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 900)), max_size=12))
def test_every_whole_line_is_found_among_torn_ones(tmp_path_factory: pytest.TempPathFactory, given: list) -> None:  # type: ignore[type-arg]
    """Envoy is killed anywhere in a line, even before its first byte or behind its last but the line's end."""
    path = tmp_path_factory.mktemp("log") / "requests.log"
    content, whole = b"", []
    for number, cut in given:
        torn = cut < len(line(number)) - 1
        content += line(number)[:cut] if torn else line(number)
        if not torn:
            whole.append(line(number)[:-1])
    path.write_bytes(content + line(99))
    found = [each for _, each in everything(path)]
    assert [each for each in found if _is_whole(each)] == [*whole, line(99)[:-1]]
    assert sum(map(len, found)) == len(path.read_bytes()) - path.read_bytes().count(b"\n")


def test_a_file_far_larger_than_a_block(path: Path) -> None:
    count = 2 * log.BLOCK // len(line(1000)) + 500
    path.write_bytes(b"".join(line(1000 + number) for number in range(count)))
    found = everything(path)
    assert len(found) == count
    assert len({at for at, _ in found}) == count


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("size", [log.BLOCK - 1, log.BLOCK, log.BLOCK + 1, 3 * log.BLOCK, 3 * log.BLOCK - 5])
def test_what_is_longer_than_a_block_and_no_line_is_passed_by(path: Path, size: int, last: bool) -> None:
    """A disk that failed may leave zeros. What was written behind them counts, whichever block it begins in."""
    path.write_bytes(line(1) + b"\0" * size + line(2) + line(3))
    found = [content + b"\n" for _, content in everything(path, last=last)]
    assert found[0] == line(1)
    assert found[-2:] == [line(2), line(3)]


@pytest.mark.parametrize("into", range(12))
def test_a_beginning_that_lies_across_two_blocks_is_seen(path: Path, into: int) -> None:
    path.write_bytes(b"\0" * (log.BLOCK - into) + line(2) + line(3))
    assert [content + b"\n" for _, content in everything(path)][-2:] == [line(2), line(3)]


def test_a_file_is_known_by_its_first_line(path: Path, tmp_path: Path) -> None:
    path.write_bytes(line(1) + line(2))
    name = log.identify(path)
    assert name is not None
    path.write_bytes(path.read_bytes() + line(3))
    assert log.identify(path) == name, "it grows"
    assert log.identify(log.put_aside(path)) == name, "it is renamed"
    path.write_bytes(line(2))
    assert log.identify(path) != name


def test_a_file_without_a_whole_line_is_known_by_nothing(path: Path) -> None:
    assert log.identify(path) is None, "absent"
    path.touch()
    assert log.identify(path) is None and log.identify(path, last=True) is None, "empty"
    path.write_bytes(line(1)[:-1])
    assert log.identify(path) is None
    assert log.identify(path, last=True) is not None, "it is what there is"


def test_a_first_line_that_a_client_made_long_is_known(path: Path) -> None:
    path.write_bytes(line(1, id="x" * 70_000)[:-1])
    name = log.identify(path)
    assert name is not None
    path.write_bytes(line(1, id="x" * 70_000) + line(2))
    assert log.identify(path) == name


def test_a_file_that_vanishes_is_empty(path: Path) -> None:
    assert log.read(path, "x", 0).content == b""


def test_the_end_of_a_file_that_is_closed_is_read_though_it_is_no_line(path: Path) -> None:
    path.write_bytes(line(1) + line(2)[:-1])
    assert [content for _, content in everything(path, last=True)] == [line(1)[:-1], line(2)[:-1]]


def test_files_put_aside_are_counted_on_and_read_in_order(path: Path, tmp_path: Path) -> None:
    for number in range(11):
        path.write_bytes(line(number))
        log.put_aside(path)
    (tmp_path / "requests.log.old").touch()
    (tmp_path / "requests.log.2.gz").touch()
    names = [old.name for old in log.aside(path)]
    assert names == [f"requests.log.{number}" for number in range(1, 12)]
    log.aside(path)[0].unlink()
    path.write_bytes(line(12))
    assert log.put_aside(path).name == "requests.log.12"
