"""Entries -> records: tokens and cost, whatever providers and clocks do."""

import orjson
import pytest

from extproc.usage.billing import Billed, Billing
from extproc.usage.entries import CACHE_HIT, parse
from extproc.usage.estimate import Estimator
from extproc.usage.record import PICO, Tokens
from tests.unit.collector.given import MAY_1, USAGE, accounting, line

PRICES = {
    "": {
        "m": {"input": "1", "output": "2"},
        "m-mini": {"input": "0.1", "output": "0.2"},
        "gpt-4o": {"input": "3", "output": "6"},
        "gpt-4o-2024-08-06": {"input": "30", "output": "60"},
        "free": {"input": "0", "output": "0"},
        "flat": {"request": "0.5"},
        "cheap": {"input": "0.01", "output": "0.01"},
    }
}
UNSAID: dict[str, object] = {"answered": "", "usage": None}
MICRO = PICO // 10**6  # of a dollar


def billed(
    estimator: Estimator | None = None, asked: dict[str, dict[str, str]] | None = None, **changes: object
) -> Billed:
    found = maybe(estimator, asked, **changes)
    assert found is not None
    return found


def maybe(
    estimator: Estimator | None = None, asked: dict[str, dict[str, str]] | None = None, **changes: object
) -> Billed | None:
    billing = Billing(accounting(prices=PRICES, asked=asked or {}), estimator or Estimator())
    return billing.bill(parse(line(**changes)), "id-1")


def model(name: str, answered: str | None = None, usage: object = USAGE) -> dict[str, object]:
    stated = usage if isinstance(usage, str) else orjson.dumps(usage).decode()
    return {
        "client": "acme/search/alice;",
        "model": name,
        "answered": name if answered is None else answered,
        "usage": stated,
    }


def test_a_request_with_its_usage() -> None:
    found = billed()
    record = found.record
    assert found.problem == ""
    assert (record.id, record.at_us, record.key, record.team, record.organization) == (
        "id-1", MAY_1, "alice", "search", "acme",
    )  # fmt: skip
    assert (record.model, record.provider, record.served_model, record.surface) == (
        "m", "openai", "m", "chat/completions",
    )  # fmt: skip
    assert (record.tokens, record.estimated) == (Tokens(10, 5), False)
    assert record.cost_pico == 20 * MICRO
    assert (record.attempts, record.status, record.complete, record.streamed) == (1, 200, True, False)
    assert (record.first_byte_us, record.duration_us, record.bytes_in, record.bytes_out) == (1656, 1713, 57, 575)


@pytest.mark.parametrize("changes", [{"cluster": None}, {"attempts": 0}, {"cluster": None, "attempts": 0}])
def test_a_request_that_reached_no_provider_used_nothing(changes: dict[str, object]) -> None:
    assert maybe(**changes) is None


@pytest.mark.parametrize("status", [301, 400, 401, 404, 429, 500, 503])
def test_errors_are_free_and_say_so(status: int) -> None:
    record = billed(status=status, attempts=3).record
    assert (record.tokens, record.cost_pico, record.estimated, record.attempts) == (Tokens(), 0, False, 3)


@pytest.mark.parametrize("said", [UNSAID, {"usage": None}, {"usage": ""}, {"usage": "null"}])
def test_absent_usage_is_estimated(said: dict[str, object]) -> None:
    found = billed(**said)
    assert found.record.estimated and found.problem == ""
    assert found.record.tokens.input > 0 and found.record.tokens.output > 0
    assert found.record.cost_pico == found.record.tokens.input * MICRO + found.record.tokens.output * 2 * MICRO


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -5, "completion_tokens": 3},
        {"prompt_tokens": 10, "completion_tokens": 10**12},
        {"prompt_tokens": "10", "completion_tokens": 3},
        {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 5},
        {"prompt_tokens": 1.5, "completion_tokens": 3},
        '{"prompt_tokens":10',
        "[]",
        "7",
    ],
)
def test_bad_usage_is_estimated_and_told(usage: object) -> None:
    found = billed(**model("m", usage=usage))
    assert found.problem
    assert found.record.estimated
    assert 0 < found.record.tokens.total < 1000


def test_a_stream_that_was_cut_off_is_estimated_from_what_came() -> None:
    stream = {"type": "text/event-stream", "flags": "DC", **UNSAID}
    short, long = billed(out=3_000, **stream).record, billed(out=30_000, **stream).record
    assert short.estimated and not short.complete and short.streamed
    assert short.tokens.output < long.tokens.output


def test_what_a_cut_stream_stated_so_far_is_the_least() -> None:
    usage = {"input_tokens": 5000, "output_tokens": 1}
    found = billed(type="text/event-stream", flags="DC", out=30_000, path="/v1/messages", **model("m", usage=usage))
    assert found.record.estimated
    assert found.record.tokens.input == 5000
    assert found.record.tokens.output > 1


def test_a_client_that_left_before_the_answer_has_used_its_prompt() -> None:
    record = billed(status=0, flags="DC", out=0, first=None, **UNSAID).record
    assert record.estimated and not record.complete
    assert (record.tokens.output, record.first_byte_us) == (0, None)
    assert record.tokens.input > 0
    assert record.cost_pico == record.tokens.input * MICRO


def test_a_whole_stream_without_usage_counts_as_whole() -> None:
    """Of a cut one, part of the overhead is still to come."""
    estimator = Estimator()
    usage = {"prompt_tokens": 10, "completion_tokens": 100}
    for size in (20_000, 20_500, 21_000):
        billed(estimator, type="text/event-stream", out=size, **model("m", usage=usage))
    whole = billed(estimator, type="text/event-stream", out=20_500, **UNSAID).record
    cut = billed(estimator, type="text/event-stream", out=20_500, flags="DC", **UNSAID).record
    assert whole.estimated and cut.estimated
    assert whole.tokens.output == pytest.approx(100, rel=0.1)
    assert whole.tokens.output != cut.tokens.output or whole.tokens.output == 100


def test_embeddings_have_no_output() -> None:
    assert billed(path="/v1/embeddings", **UNSAID).record.tokens.output == 0


def test_what_does_not_count_in_tokens_is_not_estimated() -> None:
    record = billed(path="/v1/audio/speech", client="alice", model="flat", **UNSAID).record
    assert (record.tokens, record.estimated) == (Tokens(), False)
    assert record.cost_pico == PICO // 2


def test_an_unknown_price_is_not_zero() -> None:
    record = billed(cluster="farm", **model("nobody-knows-this")).record
    assert record.cost_pico is None
    assert record.tokens == Tokens(10, 5)


def test_a_price_of_zero_is_zero() -> None:
    assert billed(**model("free")).record.cost_pico == 0


@pytest.mark.parametrize("answered", ["m-mini", "cheap", "free", "", "m-mini-2024-01-01", "x" * 5000])
def test_a_provider_that_names_another_model_does_not_change_the_price(answered: str) -> None:
    record = billed(**model("m", answered=answered)).record
    assert record.cost_pico == 20 * MICRO
    assert record.served_model == (answered or "m")


def test_a_dated_name_of_the_same_model_has_its_own_price() -> None:
    assert billed(**model("gpt-4o", answered="gpt-4o-2024-08-06")).record.cost_pico == 600 * MICRO


def test_a_dated_name_without_a_price_has_that_of_the_model() -> None:
    assert billed(**model("m", answered="m-2024-08-06")).record.cost_pico == 20 * MICRO


def test_what_the_provider_was_asked_for_decides() -> None:
    asked = {"smart": {"openai": "m"}}
    record = billed(asked=asked, **model("smart", answered="m")).record
    assert (record.model, record.served_model, record.cost_pico) == ("smart", "m", 20 * MICRO)


def test_a_pattern_that_renames() -> None:
    asked = {"w-*": {"openai": "m"}, "w-m*": {"openai": ""}}
    assert billed(asked=asked, **model("w-x", answered="")).record.served_model == "m"
    assert billed(asked=asked, **model("w-m2", answered="")).record.served_model == "w-m2"
    assert billed(asked=asked, cluster="farm", **model("w-x", answered="")).record.served_model == "w-x"


def test_a_downgraded_request_costs_what_served_it() -> None:
    found = billed(answered="cheap", client="alice", instead="cheap").record
    assert (found.model, found.served_model, found.cost_pico) == ("m", "cheap", 15 * MICRO // 100)


@pytest.mark.parametrize("at", [0, 1, MAY_1 * 2, 2**53])
def test_any_clock(at: int) -> None:
    assert billed(at=str(at)).record.at_us == at


def test_a_provider_that_the_policy_no_longer_has_goes_by_its_cluster() -> None:
    assert billed(cluster="gone").record.provider == "gone"


def test_only_finished_answers_teach() -> None:
    estimator = Estimator()
    billed(estimator, flags="DC")
    billed(estimator, status=500)
    billed(estimator, **UNSAID)
    billed(estimator, **model("m", usage={"prompt_tokens": -1}))
    assert estimator.error("openai/m") is None
    billed(estimator)
    assert estimator.error("openai/m") is not None


def test_an_answer_out_of_the_cache_used_nothing_and_has_a_record() -> None:
    found = billed(**model("m"), details=CACHE_HIT, attempts="-", cluster="openai")
    record = found.record
    assert (record.cache_hit, record.provider, record.served_model, record.attempts) == (True, "", "m", 0)
    assert (record.tokens, record.cost_pico, record.estimated) == (Tokens(), 0, False)
    assert (record.key, record.team, record.model, record.status) == ("alice", "search", "m", 200)
