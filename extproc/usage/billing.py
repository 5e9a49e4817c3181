"""Entries of the access log -> usage records: tokens read or estimated, and what they cost."""

from typing import NamedTuple

from extproc.usage import reading
from extproc.usage.accounting import Accounting
from extproc.usage.entries import CACHE_HIT, Entry
from extproc.usage.estimate import Estimator, topped_up
from extproc.usage.identity import owner
from extproc.usage.price_book import undated_name
from extproc.usage.prices import cost
from extproc.usage.record import Tokens, UsageRecord

# What reports its tokens: an answer without them gets an estimate. Other APIs charge by other units.
_COUNTED = frozenset({"chat/completions", "completions", "embeddings", "responses", "messages"})
NO_TOKENS = Tokens()


class Billed(NamedTuple):
    """A record, and what is odd about it: "" or words for the operator."""

    record: UsageRecord
    problem: str = ""


class Billing:
    """What an entry becomes under one accounting document. The estimator learns from finished answers."""

    def __init__(self, accounting: Accounting, estimator: Estimator) -> None:
        self._accounting, self._estimator = accounting, estimator
        self._prices, self._families = accounting.price_book(), accounting.catalog_family

    def bill(self, entry: Entry, number: str) -> Billed | None:
        """The record with the id `number`; None for a request that reached no provider: it used nothing.

        An answer out of the cache used nothing either, but has a record.
        """
        if entry.details == CACHE_HIT:
            return Billed(_hit(entry, number))
        if not entry.cluster or not entry.attempts or not entry.model:
            return None
        provider = self._accounting.clusters.get(entry.cluster)
        name = provider.name if provider else entry.cluster
        asked = self._accounting.upstream_name(entry.instead or entry.model, entry.cluster)
        tokens, estimated, problem = self._tokens(entry, f"{name}/{asked}")
        who = owner(entry.client)
        return Billed(
            # By place, since every request makes one: in the order of the record's fields.
            UsageRecord(
                number,
                entry.at_us,
                who.key,
                who.team,
                who.organization,
                entry.model,
                name,
                entry.answered_model or asked,
                entry.surface,
                entry.attempts,
                entry.status,
                tokens,
                estimated,
                self._cost(entry, asked, name, tokens),
                entry.first_us,
                entry.took_us,
                entry.bytes_in,
                entry.bytes_out,
                entry.streamed,
                entry.complete,
                cache_hit=False,
            ),
            problem,
        )

    def _tokens(self, entry: Entry, model: str) -> tuple[Tokens, bool, str]:
        """Tokens, whether they are estimated, and what was wrong with those reported."""
        if entry.status and not 200 <= entry.status < 300:
            return NO_TOKENS, False, ""  # providers charge nothing for errors
        found = reading.tokens(entry.usage)
        # A stream may state its usage so far; what was cut off after that is in the estimate.
        if found.tokens is not None and entry.complete:
            self._estimator.observe(model, entry.streamed, entry.bytes_in, entry.bytes_out, found.tokens)
            return found.tokens, False, ""
        if entry.surface not in _COUNTED:
            return found.tokens or NO_TOKENS, False, found.problem
        generates = entry.surface != "embeddings"
        sizes = entry.bytes_in, entry.bytes_out
        guess = self._estimator.estimate(model, entry.streamed, *sizes, complete=entry.complete, generates=generates)
        if found.tokens is not None:
            guess = topped_up(found.tokens, guess)
        return guess, True, found.problem

    def _cost(self, entry: Entry, asked: str, provider: str, tokens: Tokens) -> int | None:
        """What was asked for decides the price: a provider may say another name, but not thereby change its price.

        Only a dated name of the same model, which the provider chose by itself, is looked up first.
        """
        if tokens is NO_TOKENS and not 200 <= entry.status < 300:
            return 0
        family = self._families.get(entry.cluster, "")
        answered = entry.answered_model
        names = (answered, asked) if undated_name(answered) == asked else (asked,)
        for name in names:
            found = self._prices.find(name, family, provider)
            if found is not None:
                return cost(found.price, tokens)
        return None


def _hit(entry: Entry, number: str) -> UsageRecord:
    """An answer out of the cache: no tokens were used, and nobody charges for it."""
    who = owner(entry.client)
    return UsageRecord(
        number, entry.at_us, who.key, who.team, who.organization, entry.model, "", entry.instead or entry.model,
        entry.surface, 0, entry.status, NO_TOKENS, False, 0, entry.first_us, entry.took_us, entry.bytes_in,
        entry.bytes_out, entry.streamed, entry.complete, cache_hit=True,
    )  # fmt: skip
