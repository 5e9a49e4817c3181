"""Entries of the access log -> usage records: tokens read or estimated, and what they cost."""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from extproc.usage import reading
from extproc.usage.accounting import Accounting
from extproc.usage.entries import CACHE_HIT, Course, Entry, Names
from extproc.usage.estimate import Estimator, topped_up
from extproc.usage.identity import owner
from extproc.usage.price_book import undated_name
from extproc.usage.prices import Price, Weights, cost, weights
from extproc.usage.record import Tokens, UsageRecord

# What reports its tokens: an answer without them gets an estimate. Other APIs charge by other units.
_COUNTED = frozenset({"chat/completions", "completions", "embeddings", "responses", "messages"})
NO_TOKENS = Tokens()
_KINDS = 16_384  # of requests, that are remembered


class Billed(NamedTuple):
    """A record, and what is odd about it: "" or words for the operator."""

    record: UsageRecord
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _Kind:
    """What all requests of the same names and course have in common."""

    known: tuple[str | int, ...]  # of the record, from `key` to `status`
    model: str  # as the estimator knows it
    counted: bool  # its tokens are estimated where they are not reported
    generates: bool
    streamed: bool
    complete: bool
    good: bool  # a provider answered with success
    free: bool  # an error, for which providers charge nothing, or out of the cache
    cached: bool
    price: Price | None
    weights: Weights | None  # the same, for most prices


class Billing:
    """What an entry becomes under one accounting document. The estimator learns from finished answers."""

    def __init__(self, accounting: Accounting, estimator: Estimator) -> None:
        self._accounting, self._estimator = accounting, estimator
        self._prices, self._families = accounting.price_book(), accounting.catalog_family
        self._kind = lru_cache(_KINDS)(self._kind_of)

    def bill(self, entry: Entry, number: str) -> Billed | None:
        """The record with the id `number`; None for a request that reached no provider: it used nothing.

        An answer out of the cache used nothing either, but has a record.
        """
        _, at_us, names, course, first_us, took_us, bytes_in, bytes_out, _, usage = entry
        kind = self._kind(names, course)
        if kind is None:
            return None
        if kind.free:
            tokens, estimated, problem = NO_TOKENS, False, ""
        else:
            tokens, estimated, problem = self._tokens(kind, bytes_in, bytes_out, usage)
        # By place and past its constructor, which takes twice as long: every request makes one.
        record = tuple.__new__(
            UsageRecord,
            (
                number,
                at_us,
                *kind.known,
                tokens,
                estimated,
                _cost(kind, tokens),
                first_us,
                took_us,
                bytes_in,
                bytes_out,
                kind.streamed,
                kind.complete,
                kind.cached,
            ),
        )
        return tuple.__new__(Billed, (record, problem))

    def _kind_of(self, names: Names, course: Course) -> _Kind | None:
        if course.details == CACHE_HIT:
            return _hit(names, course)
        if not course.cluster or not course.attempts or not names.model:
            return None
        provider = self._accounting.clusters.get(course.cluster)
        name = provider.name if provider else course.cluster
        asked = self._accounting.upstream_name(names.instead or names.model, course.cluster)
        who = owner(names.client)
        price = self._price(names, course, asked, name)
        return _Kind(
            known=(
                who.key,
                who.team,
                who.organization,
                names.model,
                name,
                names.answered or asked,
                course.surface,
                course.attempts,
                course.status,
            ),
            model=f"{name}/{asked}",
            counted=course.surface in _COUNTED,
            generates=course.surface != "embeddings",
            streamed=course.streamed,
            complete=course.complete,
            good=200 <= course.status < 300,
            free=course.status != 0 and not 200 <= course.status < 300,
            cached=False,
            price=price,
            weights=None if price is None else weights(price),
        )

    def _price(self, names: Names, course: Course, asked: str, provider: str) -> Price | None:
        """What was asked for decides the price: a provider may say another name, but not thereby change its price.

        Only a dated name of the same model, which the provider chose by itself, is looked up first.
        """
        family = self._families.get(course.cluster, "")
        answered = names.answered
        for name in (answered, asked) if undated_name(answered) == asked else (asked,):
            found = self._prices.find(name, family, provider)
            if found is not None:
                return found.price
        return None

    def _tokens(self, kind: _Kind, bytes_in: int, bytes_out: int, usage: tuple[str, ...]) -> tuple[Tokens, bool, str]:
        """Tokens, whether they are estimated, and what was wrong with those reported."""
        stated, problem = reading.tokens(usage)
        # A stream may state its usage so far; what was cut off after that is in the estimate.
        if stated is not None and kind.complete:
            self._estimator.observe(kind.model, kind.streamed, bytes_in, bytes_out, stated)
            return stated, False, ""
        if not kind.counted:
            return stated or NO_TOKENS, False, problem
        guess = self._estimator.estimate(
            kind.model, kind.streamed, bytes_in, bytes_out, complete=kind.complete, generates=kind.generates
        )
        return guess if stated is None else topped_up(stated, guess), True, problem


def _cost(kind: _Kind, tokens: Tokens) -> int | None:
    if tokens is NO_TOKENS and not kind.good:
        return 0
    if kind.weights is not None:
        put_in, put_out, cached, cache_write, reasoning = tokens
        by = kind.weights
        return put_in * by[0] + put_out * by[1] + cached * by[2] + cache_write * by[3] + reasoning * by[4]
    return None if kind.price is None else cost(kind.price, tokens)


def _hit(names: Names, course: Course) -> _Kind:
    """Answers out of the cache: no tokens were used, and nobody charges for them."""
    who = owner(names.client)
    asked = names.instead or names.model
    return _Kind(
        known=(who.key, who.team, who.organization, names.model, "", asked, course.surface, 0, course.status),
        model="",
        counted=False,
        generates=False,
        streamed=course.streamed,
        complete=course.complete,
        good=False,
        free=True,
        cached=True,
        price=None,
        weights=None,
    )
