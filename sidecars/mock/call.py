"""One request as the answering modules see it, and the readers of its fields."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

from sidecars.mock.canned import Canned
from sidecars.mock.controls import Controls
from sidecars.mock.errors import MockError, invalid

_EPOCH = 1_700_000_000  # every `created` lies in the 194 days after this, by the digest


@dataclass(frozen=True, slots=True)
class File:
    """A file of a multipart form."""

    field: str
    name: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Body:
    """A decoded body: a JSON object, or the fields and files of a form. `digest` is what identifies it."""

    digest: str
    data: dict[str, Any] = field(default_factory=dict)
    files: tuple[File, ...] = ()

    @property
    def model(self) -> str:
        model = self.data.get("model")
        return model if isinstance(model, str) else ""


@dataclass(frozen=True, slots=True)
class Call:
    """What to answer: `data` is the JSON object or form, `path_id` the last path segment of `/v1/models/{id}`, `canned`
    what a fixture says to it."""

    body: Body
    controls: Controls
    path_id: str = ""
    canned: Canned | None = None

    @property
    def data(self) -> dict[str, Any]:
        return self.body.data

    @property
    def created(self) -> int:
        return _EPOCH + int(self.body.digest[:6], 16)

    def identify(self, prefix: str) -> str:
        """An id such as `chatcmpl-…`: the same for the same body."""
        return prefix + self.body.digest

    def model(self) -> str:
        """The model asked for, required."""
        if not self.body.model:
            raise MockError(400, "You must provide a model parameter.", param="model")
        return self.body.model

    def flag(self, name: str) -> bool:
        value = self.data.get(name)
        if value is not None and not isinstance(value, bool):
            raise invalid(name, "a boolean")
        return bool(value)

    def integer(self, name: str, low: int, high: int) -> int | None:
        """A whole number in a range, None when absent; a form's text counts as a number."""
        value = self.data.get(name)
        if isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise invalid(name, f"an integer from {low} to {high}")
        return value

    def choice(self, name: str, known: tuple[str, ...]) -> str:
        """One of `known`; the first is the default."""
        value = self.data.get(name)
        if value is None:
            return known[0]
        if value not in known:
            raise invalid(name, f"one of {', '.join(known)}")
        return str(value)

    def string(self, name: str) -> str:
        """A string, required."""
        value = self.data.get(name)
        if not isinstance(value, str):
            raise invalid(name, "a string")
        return value

    def objects(self, name: str) -> list[dict[str, Any]]:
        """A list of objects, empty when absent."""
        value = self.data.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise invalid(name, "an array of objects")
        return value


def digest(*parts: bytes) -> str:
    """32 hexadecimal digits that stand for `parts`; one part hashes as itself."""
    return hashlib.blake2b(b"\0".join(parts), digest_size=16).hexdigest()
