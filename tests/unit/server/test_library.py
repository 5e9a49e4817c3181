"""Versions of settings: named by what they say, read when asked for, the last few kept."""

import asyncio
from pathlib import Path

import pytest

from extproc.server import settings
from extproc.server.library import KEPT, Library, UnknownError
from extproc.server.settings import RuleSpec, Settings, StageSpec, When
from extproc.stages.settings import SettingsError


def _document(value: int = 0) -> bytes:
    stage = StageSpec("transform", {"operations": [{"set": {"seed": value}}]})
    rule = RuleSpec("one", (stage,), When(headers={"x-app": ("a", "b*")}), closed=True)
    return settings.dump(Settings(1, (rule,)))


def _write(folder: Path, document: bytes) -> str:
    version = settings.version(document)
    (folder / settings.file_name(version)).write_bytes(document)
    return version


def test_a_document_says_the_same_again() -> None:
    made = settings.parse(_document(), "here")
    assert settings.dump(made) == _document()
    assert (made.rules[0].closed, made.rules[0].when.headers) == (True, {"x-app": ("a", "b*")})


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (b'{"format":2,"rules":[]}', "format"),
        (b'{"format":1,"rules":[{"name":"a","stages":[{"kind":"none","settings":{}}]}]}', "one of"),
        (b'{"format":1,"rules":[],"more":1}', "more"),
        (b"", "Invalid JSON"),
    ],
)
def test_another_document_is_an_error(document: bytes, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        settings.parse(document, "here")


@pytest.mark.parametrize("streamed", [True, False])
def test_routes_name_their_chain(streamed: bool) -> None:
    assert settings.place(settings.route_name("ab12", "0-1", streamed=streamed)) == ("ab12", "0-1", streamed)


@pytest.mark.parametrize("name", ["", "models", "rules/ab12", "rules/../x", "rules/a/b/c", "rules//x"])
def test_other_routes_name_none(name: str) -> None:
    with pytest.raises(ValueError, match="not the name of a route with rules"):
        settings.place(name)


async def test_versions_are_read_when_asked_for_and_few_are_kept(tmp_path: Path) -> None:
    library = Library(tmp_path)
    versions = [_write(tmp_path, _document(number)) for number in range(KEPT + 1)]
    assert library.known(versions[0], "0") is None
    await asyncio.gather(*(library.load(versions[0]) for _ in range(10)))
    first = library.known(versions[0], "0")
    assert first is not None
    for version in versions[1:]:
        await library.load(version)
        assert library.known(version, "0") is not first
    assert library.known(versions[0], "0") is None
    assert library.known(versions[1], "0") is not None


async def test_a_version_that_is_used_stays(tmp_path: Path) -> None:
    library = Library(tmp_path)
    versions = [_write(tmp_path, _document(number)) for number in range(KEPT + 1)]
    for version in versions:
        await library.load(version)
        library.known(versions[0], "0")
    assert library.known(versions[0], "0") is not None


async def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    library = Library(tmp_path)
    with pytest.raises(UnknownError, match="no version"):
        await library.load("ab12")
    version = _write(tmp_path, _document())
    (tmp_path / settings.file_name(version)).write_bytes(_document(1))
    with pytest.raises(UnknownError, match="not what its name says"):
        await library.load(version)
    await library.load(_write(tmp_path, _document(2)))
    for chain in ("7", "", "-", "0-", "a", "00", "-1", "0-0-9"):
        with pytest.raises(UnknownError, match="no chain"):
            library.known(settings.version(_document(2)), chain)
