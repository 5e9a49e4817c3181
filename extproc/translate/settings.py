"""What the service must know to translate for a provider's cluster: a short text, sent along with each exchange.

Nothing of it is kept between requests, so that a request never sees half of one policy and half of the next.
"""

from dataclasses import asdict, dataclass, fields, replace
from typing import get_args

import orjson

from extproc.translate.providers.common import Options
from extproc.translate.requests import ProviderName

_PROVIDERS = frozenset(get_args(ProviderName))
_DEFAULTS = Options()


@dataclass(frozen=True, slots=True)
class Translation:
    """The API that a provider speaks, and how to translate into it."""

    provider: ProviderName
    options: Options = _DEFAULTS


def dump(translation: Translation) -> str:
    """One line of ASCII; the same translation gives the same text. What is as usual is left out."""
    said = {name: value for name, value in asdict(translation.options).items() if value != getattr(_DEFAULTS, name)}
    return orjson.dumps({"provider": translation.provider, **said}, option=orjson.OPT_SORT_KEYS).decode()


def parse(text: str) -> Translation:
    """The inverse. Raises ValueError for what is no translation."""
    said = orjson.loads(text)
    if not isinstance(said, dict) or said.get("provider") not in _PROVIDERS:
        raise ValueError(f"{text[:200]!r} names no provider that can be translated for")
    provider = said.pop("provider")
    unknown = said.keys() - {field.name for field in fields(Options)}
    if unknown:
        raise ValueError(f"{text[:200]!r} has unknown options: {', '.join(sorted(unknown))}")
    return Translation(provider, replace(_DEFAULTS, **said))
