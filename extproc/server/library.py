"""The settings versions that a worker has at hand: read by name when first asked for, the last few kept."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import orjson

from extproc.server import settings
from extproc.server.chain import Chain, Rule
from extproc.server.kinds import build
from extproc.server.settings import RuleSpec
from extproc.stages.settings import SettingsError

KEPT = 4


class UnknownError(LookupError):
    """There is no such version, or no such chain in it."""


def chains(document: bytes, origin: str) -> Mapping[str, Chain]:
    """The chains of a settings document, ready to run. Raises SettingsError."""
    made = settings.parse(document, origin)
    rules = tuple(_rule(spec) for spec in made.rules)
    return {name: Chain(tuple(rules[place] for place in places), made.names) for name, places in made.chains.items()}


def _rule(spec: RuleSpec) -> Rule:
    try:
        stages = tuple(build(each.kind, orjson.dumps(each.settings), spec.name) for each in spec.stages)
    except SettingsError:
        raise
    except ValueError as error:
        raise SettingsError(f"rules.{spec.name}: {error}") from None
    return Rule(spec.name, stages, spec.when, spec.closed)


class Library:
    """Versions of a folder of settings documents. A version that is asked for by many is read once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept: OrderedDict[str, Mapping[str, Chain]] = OrderedDict()
        self._reading: dict[str, asyncio.Task[Mapping[str, Chain]]] = {}

    def known(self, version: str, chain: str) -> Chain | None:
        """The chain, if its version is at hand. Raises UnknownError for a chain that it does not have."""
        found = self._kept.get(version)
        if found is None:
            return None
        self._kept.move_to_end(version)
        if chain not in found:
            raise UnknownError(f"version {version} has no chain {chain}")
        return found[chain]

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

    def _read(self, version: str) -> Mapping[str, Chain]:
        file = self._folder / settings.file_name(version)
        try:
            document = file.read_bytes()
        except FileNotFoundError:
            raise UnknownError(f"there is no version {version} in {self._folder}") from None
        if settings.version(document) != version:
            raise UnknownError(f"{file} is not what its name says")
        return chains(document, file.name)
