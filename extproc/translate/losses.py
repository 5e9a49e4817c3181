"""What a translation could not carry, and the refusals. Nothing a client wrote disappears without a name in here."""

from typing import NamedTuple, NoReturn

# A hostile body may have a million unknown fields: this many are named, the rest counted.
_NAMED = 32
_LONGEST_NAME = 120


class Refused(NamedTuple):
    """A request that is not sent. `param` is the place in the client's body, such as `messages[2].content[0]`."""

    param: str
    message: str
    code: str  # invalid_request, unsupported_parameter, unsupported_content, unsupported_endpoint


class RefusedError(Exception):
    """Ends a translation; `refused` is its result."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.message)
        self.refused = refused


def invalid(at: str, expected: str) -> NoReturn:
    """Refuses a body that no provider could understand."""
    at = shown(at)
    raise RefusedError(Refused(at, f"'{at or 'body'}' is wrong: expected {expected}.", "invalid_request"))


def inexpressible(at: str, why: str) -> NoReturn:
    """Refuses content: a conversation is never sent with parts missing, whatever the policy."""
    at = shown(at)
    raise RefusedError(Refused(at, f"'{at}' cannot be sent to this provider: {why}.", "unsupported_content"))


def shown(at: str) -> str:
    """A place as printable ASCII of bounded length: it goes to headers and messages, and clients choose names."""
    safe = "".join(char if " " < char < "\x7f" and char != "," else "?" for char in at[: _LONGEST_NAME + 1])
    return safe if len(safe) <= _LONGEST_NAME else safe[: _LONGEST_NAME - 3] + "..."


class Losses:
    """Collects what was not carried, in the order in which it was found."""

    def __init__(self) -> None:
        self._params: dict[str, str] = {}
        self._hints: dict[str, None] = {}
        self._unnamed = 0
        self._warnings: dict[str, None] = {}

    def param(self, at: str, why: str = "") -> None:
        """A parameter that changes the answer: refused or dropped, as the policy says."""
        if len(self._params) < _NAMED:
            self._params.setdefault(shown(at), why)
        else:
            self._unnamed += 1

    def hint(self, at: str) -> None:
        """What changes cost, caching or bookkeeping, but not the answer: dropped under either policy, and named."""
        if len(self._hints) < _NAMED:
            self._hints[shown(at)] = None
        else:
            self._unnamed += 1

    def warn(self, text: str) -> None:
        """Something carried in another form than it was asked for."""
        if len(self._warnings) < _NAMED:
            self._warnings[text] = None

    @property
    def dropped(self) -> tuple[str, ...]:
        """The names, parameters first; then, if there are too many to name, how many more."""
        more = (f"+{self._unnamed}",) if self._unnamed else ()
        return (*self._params, *(name for name in self._hints if name not in self._params), *more)

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(self._warnings)

    def refusal(self) -> Refused | None:
        """Why the policy `refuse` does not send this; None if nothing was lost that counts."""
        if not self._params:
            return None
        first, why = next(iter(self._params.items()))
        names = ", ".join(f"'{name}'" for name in self._params)
        verb = "is" if len(self._params) == 1 else "are"
        reason = f": {why}" if why and len(self._params) == 1 else ""
        message = f"{names} {verb} not supported by this provider{reason}. Remove what is named, or use another model."
        return Refused(first, message, "unsupported_parameter")
