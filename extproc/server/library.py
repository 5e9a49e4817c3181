"""The settings versions that a worker has at hand: read by name when first asked for, the last few kept."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from weakref import WeakValueDictionary

import orjson

from extproc.server import settings
from extproc.server.chain import Chain, Rule
from extproc.server.kinds import Built, build
from extproc.server.settings import RuleSpec, When
from extproc.stages.around import Around
from extproc.stages.book import Book, Counting
from extproc.stages.count import Counts
from extproc.stages.settings import SettingsError
from extproc.stages.tokenizers import Local
from extproc.usage.webhooks import endpoints
from extproc.usage.webhooks.endpoints import Endpoint

KEPT = 4


def _nothing_beside(name: str) -> str:
    raise ValueError(f"there is no file {name}")


class UnknownError(LookupError):
    """There is no such version, or no such chain in it."""


class Version:
    """The rules of a settings document, ready to run. `read`: files beside it, by name. Raises SettingsError."""

    def __init__(self, document: bytes, origin: str, read: Callable[[str], str] = _nothing_beside) -> None:
        made = settings.parse(document, origin)
        book = _book(made.counting, origin, read)
        around = Around(book, _hooks(made.hooks, origin, read))
        self._rules = tuple(_rule(spec, around) for spec in made.rules)
        self._names = made.names
        self._chains = {settings.COUNTS: Chain((_counting(book),))}

    def chain(self, name: str) -> Chain:
        """A chain of its rules. Raises UnknownError."""
        found = self._chains.get(name)
        if found is None:
            try:
                rules = tuple(self._rules[place] for place in settings.places(name))
            except (ValueError, IndexError):
                raise UnknownError(f"there is no chain {name[:100]!r} of {len(self._rules)} rules") from None
            found = self._chains[name] = Chain(rules, self._names)
        return found


def _rule(spec: RuleSpec, around: Around) -> Rule:
    try:
        stages = tuple(build(each.kind, orjson.dumps(each.settings), spec.name, around) for each in spec.stages)
    except SettingsError:
        raise
    except ValueError as error:
        raise SettingsError(f"rules.{spec.name}: {error}") from None
    return Rule(spec.name, stages, spec.when, spec.closed)


def _counting(book: Book) -> Rule:
    """What answers requests that only ask for a count. No rule of a policy can have its name."""
    stage, none = Counts(book), frozenset[str]()
    return Rule("/count", (Built("count", stage, stage.needs, False, False, none, none),), When(), closed=True)


def _book(counting: Counting, origin: str, read: Callable[[str], str]) -> Book:
    try:
        return Book(counting, {name: _local(name, digest, read) for name, digest in counting.files.items()})
    except (OSError, ValueError) as error:
        raise SettingsError(f"{origin}: tokenizers: {error}") from None


def _local(name: str, digest: str, read: Callable[[str], str]) -> Local:
    """A file's tokenizer; reading one takes up to a second, and most edits leave them alone."""
    found = _TOKENIZERS.get((name, digest))
    if found is None:
        found = _TOKENIZERS[name, digest] = Local(name, read(settings.tokenizer_file(digest)))
    return found


def _hooks(digest: str, origin: str, read: Callable[[str], str]) -> Mapping[str, Endpoint]:
    """No error quotes the file: it holds secrets."""
    try:
        found = endpoints.load(read(settings.hooks_file(digest))) if digest else ()
    except OSError as error:
        raise SettingsError(f"{origin}: webhooks: {error.strerror}") from None
    except ValueError:
        raise SettingsError(f"{origin}: webhooks: {settings.hooks_file(digest)} is not what its name says") from None
    return {hook.name: hook for hook in found}


# They live as long as a version that uses them.
_TOKENIZERS: WeakValueDictionary[tuple[str, str], Local] = WeakValueDictionary()


class Library:
    """Versions of a folder of settings documents. A version that is asked for by many is read once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept: OrderedDict[str, Version] = OrderedDict()
        self._reading: dict[str, asyncio.Task[Version]] = {}

    def known(self, version: str, chain: str) -> Chain | None:
        """The chain, if its version is at hand. Raises UnknownError for a chain that it does not have."""
        found = self._kept.get(version)
        if found is None:
            return None
        self._kept.move_to_end(version)
        return found.chain(chain)

    async def load(self, version: str) -> None:
        """Has a version at hand. Raises UnknownError, SettingsError, OSError."""
        if version in self._kept:
            return
        task = self._reading.get(version)
        if task is None:
            task = self._reading[version] = asyncio.create_task(asyncio.to_thread(self._read, version))
            task.add_done_callback(lambda _: self._reading.pop(version, None))
        made = await asyncio.shield(task)
        self._kept[version] = made
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)

    def _read(self, version: str) -> Version:
        file = self._folder / settings.file_name(version)
        try:
            document = file.read_bytes()
        except FileNotFoundError:
            raise UnknownError(f"there is no version {version} in {self._folder}") from None
        if settings.version(document) != version:
            raise UnknownError(f"{file} is not what its name says")
        return Version(document, file.name, self._beside)

    def _beside(self, name: str) -> str:
        return (self._folder / name).read_text(encoding="utf-8")
