"""Issued keys at the rim: their store and the keys that sign them, in the state folder."""

import shutil
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson

from controlplane.keys.issue import Issued, Request
from controlplane.keys.signing import SigningError, SigningKeys
from controlplane.keys.store import IssuedKey, KeysError, Store
from controlplane.plan import tokens
from controlplane.plan.tokens import Tokens, identity_of, owner, priority_in
from controlplane.policy.language import Policy
from controlplane.runtime.failures import KeysUnavailableError
from extproc.usage.identity import owner as owner_in


class UnknownNameError(Exception):
    """A key to be issued names what the live policy does not have. Its text says what."""


class Keys:
    """The issued keys of one gateway. Calls block for milliseconds. Nothing is created before the first is issued."""

    def __init__(self, state: Path) -> None:
        self._folder, self._database = state / "keys", state / "keys.db"
        self._store: Store | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._store is not None:
            self._store.close()

    @property
    def used(self) -> bool:
        """Whether a key was ever issued: from then on the gateway is closed to those without one."""
        return self._folder.is_dir()

    def tokens(self, now: datetime) -> Tokens | None:
        """What the edge must know. Raises KeysUnavailableError."""
        try:
            return self._tokens(now)
        except (KeysError, SigningError) as error:
            raise KeysUnavailableError(str(error)) from None

    def _tokens(self, now: datetime) -> Tokens | None:
        if not self.used:
            return None
        signing = SigningKeys.open(self._folder, now)
        accepted = {key.kid for key in signing.accepted(now)}
        store = self._opened()
        return Tokens(
            jwks=orjson.dumps(signing.public_jwks(now), option=orjson.OPT_SORT_KEYS).decode(),
            revoked=tuple(sorted(each.jti for each in store.revoked(now, accepted))),
            keys=tuple(_seen(key) for key in store.list(now=now) if key.current and key.kid in accepted),
        )

    def next_change(self, now: datetime) -> datetime | None:
        """When `tokens` changes by itself: an overlap ends. Raises KeysUnavailableError."""
        if not self.used:
            return None
        try:
            signing = SigningKeys.open(self._folder, now).next_change(now)
            return min((at for at in (signing, self._opened().next_change(now)) if at is not None), default=None)
        except (KeysError, SigningError) as error:
            raise KeysUnavailableError(str(error)) from None

    def issue(
        self,
        policy: Policy,
        name: str,
        *,
        team: str | None,
        models: tuple[str, ...] | None,
        limits: tuple[str, ...],
        budget: str | None,
        addresses: tuple[str, ...] | None,
        priority: str,
        expires: datetime | None,
        who: str,
        now: datetime,
    ) -> Issued:
        """Raises UnknownNameError, KeyExistsError, KeysError, SigningError, ValueError for a key that cannot be."""
        if name in policy.keys:
            raise UnknownNameError(f"the policy has a key `{name}` already: choose another name")
        wanted = [("team", "teams", team), ("budget", "budgets", budget)]
        for kind, section, value in [*wanted, *(("limit", "limits", limit) for limit in limits)]:
            if value is not None and value not in getattr(policy, section):
                raise UnknownNameError(f"the live policy has no {kind} `{value}`")
        for limit in limits:
            if policy.limits[limit].per == "provider":
                raise UnknownNameError(f"the limit `{limit}` counts per provider: only providers can name it")
        who_is = owner(policy, name, team)
        identity = identity_of(who_is, limits, () if budget is None else (budget,), priority)
        request = Request(name, identity, expires, team, models, limits, budget, addresses)
        store, first = self._opened(), not self.used
        try:
            return store.issue(SigningKeys.open(self._folder, now).current, request, now, who)
        except (ValueError, KeysError):
            if first:  # what was not issued must not close the gateway
                shutil.rmtree(self._folder)
            raise

    def rotate(self, name: str, overlap: timedelta, who: str, now: datetime) -> Issued:
        """A new token for a key; the old one is accepted until the overlap ends. Raises KeyError and as `issue`."""
        if not self.used:
            raise KeyError(name)
        return self._opened().rotate(SigningKeys.open(self._folder, now).current, name, overlap, now, who)

    def revoke(self, name: str, who: str, now: datetime) -> tuple[str, ...]:
        """Ends a key at once; the ids of its tokens. Raises KeyError, KeysError."""
        if not self.used:
            raise KeyError(name)
        return self._opened().revoke(name, now, who)

    def rotate_signing(self, until: datetime, now: datetime) -> tuple[str, int]:
        """Another key signs from now on; tokens of those before are accepted `until` then.

        The new key's id, and how many live tokens then end before their time. Raises KeyError before the first key was
        issued, KeysError, SigningError.
        """
        if not self.used:
            raise KeyError("signing")
        before = SigningKeys.open(self._folder, now)
        ending = {key.kid for key in before.accepted(now)}
        fresh = before.rotate(now, until - now).current.kid
        return fresh, sum(
            key.kid in ending and (key.expires is None or key.expires > until) for key in self._opened().list(now=now)
        )

    def signed_by(self, now: datetime) -> frozenset[str]:
        """The ids of the signing keys whose tokens are accepted. Raises SigningError."""
        if not self.used:
            return frozenset()
        return frozenset(key.kid for key in SigningKeys.open(self._folder, now).accepted(now))

    def get(self, name: str) -> IssuedKey | None:
        """The newest token of a name that was not revoked. Raises KeysError."""
        return self._opened().get(name) if self.used else None

    def list(self) -> tuple[IssuedKey, ...]:
        """All that is remembered. Raises KeysError."""
        return self._opened().list() if self.used else ()

    def _opened(self) -> Store:
        if self._store is None:
            self._store = Store.open(f"sqlite:///{self._database}")
        return self._store


def _seen(key: IssuedKey) -> tokens.IssuedKey:
    """As the compiler sees it: its owner and its priority are in its identity."""
    who = owner_in(key.identity)
    return tokens.IssuedKey(
        key.name, key.identity, key.models, key.limits, key.budget, who, key.addresses, priority_in(key.identity)
    )
