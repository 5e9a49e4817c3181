"""What waits and what is fed together, on any sequence of arrivals, departures and turns."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sidecars.onnx.batch import PATIENCE, Item, Priority, Waiting

lengths = st.integers(1, 300)
priorities = st.sampled_from(Priority)
budgets = st.integers(1, 1000)


@dataclass
class Seen:
    waiting: dict[int, Item[str]] = field(default_factory=dict)
    passed: dict[Priority, int] = field(default_factory=lambda: dict.fromkeys(Priority, 0))


class Batching(RuleBasedStateMachine):
    """The queue beside a plain dictionary of what it should hold."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: Waiting[str] = Waiting()
        self.seen = Seen()
        self.order = 0

    @rule(tokens=st.lists(lengths, min_size=1, max_size=8), priority=priorities)
    def arrive(self, tokens: list[int], priority: Priority) -> None:
        for one in tokens:
            self.order += 1
            item = Item(self.order, one, priority, f"load {self.order}")
            self.seen.waiting[item.order] = item
            self.queue.add(item)

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """Some of those that wait leave, and some that left before are told to once more."""
        gone = data.draw(st.sets(st.integers(1, max(1, self.order))))
        known = [self.seen.waiting.pop(order) for order in gone if order in self.seen.waiting]
        self.queue.remove([*known, *known])
        self.queue.remove([Item(order, 1, Priority.LOW, "never there") for order in gone if order > self.order])
        for priority in Priority:
            if all(item.priority is not priority for item in self.seen.waiting.values()):
                self.seen.passed[priority] = 0  # who comes next has not been passed over

    @precondition(lambda self: self.seen.waiting)
    @rule(budget=budgets)
    def turn(self, budget: int) -> None:
        before = dict(self.seen.waiting)
        batch = self.queue.take(budget)
        self._check_members(batch)
        self._check_bounds(batch, budget)
        self._check_turns(batch, before)

    @precondition(lambda self: self.seen.waiting)
    @rule(room=st.none() | budgets)
    def turn_of_one(self, room: int | None) -> None:
        before = dict(self.seen.waiting)
        item = self.queue.take_first(room)
        if item is None:
            assert room is not None
            assert room < max(one.tokens for one in before.values())
            return
        assert room is None or item.tokens <= room
        self._check_members([item])
        self._check_turns([item], before)

    @precondition(lambda self: not self.seen.waiting)
    @rule(budget=budgets)
    def turn_of_nothing(self, budget: int) -> None:
        assert self.queue.take(budget) == []
        assert self.queue.take_first(budget) is None

    def _check_members(self, batch: list[Item[str]]) -> None:
        """Only what waits is taken, once, unchanged."""
        for item in batch:
            assert self.seen.waiting.pop(item.order) is item
        assert [item.tokens for item in batch] == sorted(item.tokens for item in batch)

    def _check_bounds(self, batch: list[Item[str]], budget: int) -> None:
        """A batch is never empty; more than one sequence fit the budget, and little of it is padding."""
        padded = len(batch) * max(item.tokens for item in batch)
        assert len(batch) == 1 or padded <= budget
        assert padded - sum(item.tokens for item in batch) <= padded / 4

    def _check_turns(self, batch: list[Item[str]], before: dict[int, Item[str]]) -> None:
        """The oldest of some class is in, and no class is left out for ever."""
        oldest = {priority: min((o for o, item in before.items() if item.priority is priority), default=None)
                  for priority in Priority}  # fmt: skip
        taken = {item.order for item in batch}
        led = [priority for priority, order in oldest.items() if order in taken]
        assert led
        waits = [priority for priority, order in oldest.items() if order is not None]
        for priority in Priority:
            left_out = priority in waits and priority not in led
            self.seen.passed[priority] = self.seen.passed[priority] + 1 if left_out else 0
        # While one starved class leads, the other may be passed over once more.
        assert max(self.seen.passed.values()) <= PATIENCE + 2

    @invariant()
    def counts(self) -> None:
        assert len(self.queue) == len(self.seen.waiting)
        assert self.queue.tokens == sum(item.tokens for item in self.seen.waiting.values())


TestBatching = Batching.TestCase


@given(st.lists(st.tuples(lengths, priorities), max_size=60), budgets)
def test_everything_leaves_exactly_once(arrivals: list[tuple[int, Priority]], budget: int) -> None:
    queue: Waiting[None] = Waiting()
    for order, (tokens, priority) in enumerate(arrivals):
        queue.add(Item(order, tokens, priority, None))
    taken: list[int] = []
    while batch := queue.take(budget):
        taken += [item.order for item in batch]
    assert sorted(taken) == list(range(len(arrivals)))
    assert queue.tokens == len(queue) == 0


@given(st.lists(lengths, min_size=1, max_size=40), budgets)
def test_equal_lengths_leave_in_order_of_arrival(tokens: list[int], budget: int) -> None:
    queue: Waiting[None] = Waiting()
    for order, _ in enumerate(tokens):
        queue.add(Item(order, 7, Priority.NORMAL, None))
    taken: list[int] = []
    while batch := queue.take(budget):
        taken += [item.order for item in batch]
    assert taken == list(range(len(tokens)))


def test_urgent_requests_go_first_and_short_ones_of_others_ride_along() -> None:
    queue: Waiting[str] = Waiting()
    queue.add(Item(1, 10, Priority.LOW, "low"))
    queue.add(Item(2, 40, Priority.NORMAL, "long"))
    queue.add(Item(3, 10, Priority.HIGH, "high"))
    queue.add(Item(4, 9, Priority.NORMAL, "short"))
    assert {item.load for item in queue.take(1000)} == {"high", "low", "short"}
    assert [item.load for item in queue.take(1000)] == ["long"]


def test_what_does_not_fit_keeps_its_turn() -> None:
    queue: Waiting[None] = Waiting()
    queue.add(Item(1, 50, Priority.NORMAL, None))
    queue.add(Item(2, 5, Priority.NORMAL, None))
    assert queue.take_first(20) is None
    assert [item.order for item in (queue.take_first(50), queue.take_first(None)) if item] == [1, 2]


def test_the_budget_counts_padding() -> None:
    queue: Waiting[None] = Waiting()
    for order in range(10):
        queue.add(Item(order, 100, Priority.NORMAL, None))
    assert len(queue.take(399)) == 3
    assert len(queue.take(400)) == 4


def test_a_sequence_longer_than_the_budget_goes_alone() -> None:
    queue: Waiting[None] = Waiting()
    queue.add(Item(1, 500, Priority.NORMAL, None))
    queue.add(Item(2, 500, Priority.NORMAL, None))
    assert [item.order for item in queue.take(100)] == [1]
    assert [item.order for item in queue.take(100)] == [2]
