"""Versions of settings: named by what they say, read when asked for, the last few kept."""

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from extproc.server import settings
from extproc.server.library import KEPT, Library, UnknownError
from extproc.server.settings import RuleSpec, Settings, StageSpec, When
from extproc.stages.book import Counting
from extproc.stages.protocol import Endpoint, Request
from extproc.stages.settings import SettingsError
from extproc.usage.webhooks import endpoints
from tests.support.words import tokenizer_json
from tests.unit.server.steps import done


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


_HOOKS = endpoints.dump([endpoints.Endpoint("guard", "http://127.0.0.1:9/SECRETPATH", "whsec_" + "A" * 32)])


def _beside(folder: Path, **more: Any) -> str:
    """A version that needs files beside it: a tokenizer, and where its webhook is."""
    rules = (RuleSpec("one", (StageSpec("webhook", {"to": "guard"}), StageSpec("tokens", {})), When()),)
    counting = Counting({"m": (None,)}, {"m": "words"}, {"words": "ab12"})
    document = settings.dump(Settings(1, rules, counting=counting, hooks="cd34"))
    files = {settings.tokenizer_file("ab12"): tokenizer_json(), settings.hooks_file("cd34"): _HOOKS} | more
    for name, text in files.items():
        if text is not None:
            (folder / name).write_text(text)
    return _write(folder, document)


async def test_a_version_has_its_tokenizers_and_webhooks_from_files_beside_it(tmp_path: Path) -> None:
    library = Library(tmp_path)
    version = _beside(tmp_path)
    await library.load(version)
    chain, counts = library.known(version, "0"), library.known(version, settings.COUNTS)
    assert chain is not None and counts is not None
    request = Request(Endpoint.TOKENIZE, b'{"model":"m","prompt":"hello world"}', "m")
    reply = done(counts.enter(request).ask()).reply
    assert reply is not None
    assert orjson.loads(reply.body) == {
        "model": "m", "count": 3, "exact": True, "tokenizer": "words", "tokens": [1, 2, 3]
    }  # fmt: skip
    asked = done(chain.enter(Request(Endpoint.COMPLETIONS, b'{"prompt":"hello"}', "m")).ask(), b'{"action": "allow"}')
    assert asked.metadata["one"]["prompt_tokens"] == 2


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("ab12.tokenizer", None, "tokenizers: .*No such file"),
        ("ab12.tokenizer", "{", "tokenizers: words is no tokenizer.json"),
        ("cd34.hooks", None, "webhooks: No such file"),
        ("cd34.hooks", "[SECRETPATH", "webhooks: cd34.hooks is not what its name says"),
        ("cd34.hooks", "[]", "to: there is no webhook 'guard'"),
    ],
)
async def test_files_that_are_missing_or_wrong(tmp_path: Path, file: str, text: str | None, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        await Library(tmp_path).load(_beside(tmp_path, **{file: text}))
    assert "SECRETPATH" not in str(caught.value)
