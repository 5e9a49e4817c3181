"""The keys that sign issued tokens, in a folder of PEM files that nobody else may read.

One key signs; those before it stay accepted for as long as the rotation said. A key's id is the thumbprint of its
public half (RFC 7638), so that a file cannot pass for another key.
"""

import base64
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

ALGORITHM = "ES256"

_INDEX = "index.json"
_LOCK = "lock"
_COORDINATE = 32  # bytes of a coordinate on P-256


class SigningError(Exception):
    """The signing keys cannot be used. Its text says where, why, and what to do; it holds no key."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One ES256 key. `until` is when tokens signed with it are no longer accepted; None is never."""

    kid: str
    private: ec.EllipticCurvePrivateKey = field(repr=False, compare=False)
    created: datetime
    until: datetime | None = None

    def accepted(self, now: datetime) -> bool:
        return self.until is None or now < self.until

    def public_jwk(self) -> dict[str, str]:
        """The public half, as RFC 7517 and RFC 7518 section 6.2 write it."""
        return {**_public(self.private), "kid": self.kid, "alg": ALGORITHM, "use": "sig"}


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """The keys of one folder, newest first: the first one signs.

    What changes them returns new ones; another process sees the change when it opens the folder again.
    """

    folder: Path
    keys: tuple[SigningKey, ...]

    @classmethod
    def open(cls, folder: Path, now: datetime) -> "SigningKeys":
        """The keys in `folder`; a first one is made when there is none.

        Raises:
            SigningError: the folder or a file can be read by others, is damaged, or cannot be used.
        """
        with _locked(folder):
            keys = _read(folder) or _write(folder, (_generate(now),))
        return cls(folder, keys)

    @property
    def current(self) -> SigningKey:
        """The key that signs."""
        return self.keys[0]

    def accepted(self, now: datetime) -> tuple[SigningKey, ...]:
        """The keys whose tokens pass."""
        return tuple(key for key in self.keys if key.accepted(now))

    def public_jwks(self, now: datetime) -> dict[str, list[dict[str, str]]]:
        """The accepted keys as a JWK set: its content is the same for the same keys, and public."""
        return {"keys": [key.public_jwk() for key in self.accepted(now)]}

    def next_change(self, now: datetime) -> datetime | None:
        """When `public_jwks` next changes by itself."""
        return min((key.until for key in self.keys if key.until and key.until > now), default=None)

    def rotate(self, now: datetime, overlap: timedelta | None) -> "SigningKeys":
        """A new key signs at once. The one before stays accepted for `overlap`, or with None until it is retired.

        The overlap is a promise about time, not about tokens: those that live longer end with their key. Pass None,
        and retire the old key later, to end no token early. Keys whose time is over are deleted.
        """
        if overlap is not None and overlap < timedelta(0):
            raise ValueError("an overlap cannot be negative")
        with _locked(self.folder):
            first, *older = _read(self.folder) or self.keys
            ends = None if overlap is None else now + overlap
            kept = (replace(first, until=ends), *older)
            return replace(self, keys=_write(self.folder, (_generate(now), *(k for k in kept if k.accepted(now)))))

    def retire(self, kid: str) -> "SigningKeys":
        """Ends and deletes a key at once, and with it every token that it signed.

        Raises:
            KeyError: there is no such key.
            ValueError: it is the key that signs: rotate first.
        """
        with _locked(self.folder):
            keys = _read(self.folder)
            if kid not in {key.kid for key in keys}:
                raise KeyError(kid)
            if keys[0].kid == kid:
                raise ValueError(f"{kid} is the key that signs: rotate first, then retire it")
            return replace(self, keys=_write(self.folder, tuple(key for key in keys if key.kid != kid)))


def _generate(now: datetime) -> SigningKey:
    if now.tzinfo is None:
        raise ValueError("a time without a time zone")
    private = ec.generate_private_key(ec.SECP256R1())
    return SigningKey(_thumbprint(private), private, now)


def _public(private: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    numbers = private.public_key().public_numbers()
    return {"crv": "P-256", "kty": "EC", "x": _coordinate(numbers.x), "y": _coordinate(numbers.y)}


def _coordinate(number: int) -> str:
    return _base64url(number.to_bytes(_COORDINATE, "big"))


def _thumbprint(private: ec.EllipticCurvePrivateKey) -> str:
    """RFC 7638: the hash of the required members, in lexical order, without white space."""
    canonical = json.dumps(_public(private), separators=(",", ":"), sort_keys=True)
    return _base64url(hashlib.sha256(canonical.encode()).digest())


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The folder, made when absent, for one process at a time; refusals of the system become errors that say so."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _private(folder)
        handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)
    except OSError as error:
        raise SigningError(
            f"cannot use the signing keys in {folder}: {error.strerror}. "
            f"Check that the folder exists, has space, and belongs to this user."
        ) from error


def _private(path: Path) -> None:
    status = path.stat()
    if status.st_mode & 0o077:
        raise SigningError(
            f"{path} can be used by others (mode {status.st_mode & 0o777:04o}): whoever reads it can issue keys. "
            f"Run `chmod go= {path}`, and rotate the signing keys if somebody may have read it."
        )
    if status.st_uid != os.geteuid():
        raise SigningError(f"{path} belongs to another user (id {status.st_uid}). Run as that user, or `chown` it.")


def _read(folder: Path) -> tuple[SigningKey, ...]:
    """The keys that the index names; none where there is no index."""
    index = folder / _INDEX
    if not index.exists():
        if left := sorted(path.name for path in folder.glob("*.pem")):
            raise SigningError(
                f"{index} is missing, but there are keys ({', '.join(left)}). "
                f"Restore it from a backup, or move the folder away: keys issued so far are then no longer accepted."
            )
        return ()
    _private(index)
    try:
        entries = json.loads(index.read_text())["keys"]
        keys = tuple(_load(folder, entry) for entry in entries)
    except (ValueError, KeyError, TypeError) as error:  # their text could hold what was read
        raise _damaged(index, "is not what was written there") from error
    if not keys:
        raise _damaged(index, "names no key")
    return keys


def _load(folder: Path, entry: dict[str, Any]) -> SigningKey:
    kid, until = entry["kid"], entry["until"]
    path = folder / f"{kid}.pem"
    if not path.exists():
        raise _damaged(path, "is missing")
    _private(path)
    try:
        private = load_pem_private_key(path.read_bytes(), password=None)
    except ValueError:
        raise _damaged(path, "is not a private key") from None
    if not isinstance(private, ec.EllipticCurvePrivateKey) or not isinstance(private.curve, ec.SECP256R1):
        raise _damaged(path, "is not a key on the curve P-256")
    if _thumbprint(private) != kid:
        raise _damaged(path, "holds another key than its name says")
    created = datetime.fromisoformat(entry["created"])
    return SigningKey(kid, private, created, datetime.fromisoformat(until) if until else None)


def _damaged(path: Path, what: str) -> SigningError:
    return SigningError(
        f"{path} {what}. Restore the folder {path.parent} from a backup, or move it away and issue all keys again."
    )


def _write(folder: Path, keys: tuple[SigningKey, ...]) -> tuple[SigningKey, ...]:
    """Files of new keys, then the index that makes them count, then the end of what it no longer names.

    A crash in between leaves at most a file that the index does not name; the next change removes it.
    """
    for key in keys:
        path = folder / f"{key.kid}.pem"
        if not path.exists():
            _replace(path, key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    entries = [
        {"kid": k.kid, "created": k.created.isoformat(), "until": k.until.isoformat() if k.until else None}
        for k in keys
    ]
    _replace(folder / _INDEX, json.dumps({"version": 1, "keys": entries}, indent=1).encode())
    named = {f"{key.kid}.pem" for key in keys}
    for path in (*folder.glob("*.pem"), *folder.glob("*.new")):
        if path.name not in named:
            path.unlink()
    return keys


def _replace(path: Path, content: bytes) -> None:
    """Writes a file in one step that survives a power cut, readable by its owner only."""
    fresh = path.with_name(path.name + ".new")
    with suppress(FileNotFoundError):
        fresh.unlink()
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(handle)
    fresh.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
