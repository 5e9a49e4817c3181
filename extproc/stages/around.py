"""What stages are built with beside their settings: what the policy keeps elsewhere, since it is large or secret."""

from collections.abc import Mapping
from dataclasses import dataclass

from extproc.stages.book import NO_BOOK, Book
from extproc.usage.webhooks.endpoints import Endpoint


@dataclass(frozen=True, slots=True)
class Around:
    """`book`: the tokenizers. `hooks`: where webhooks are, by name; they print without their secrets."""

    book: Book
    hooks: Mapping[str, Endpoint]


NOTHING_AROUND = Around(NO_BOOK, {})
