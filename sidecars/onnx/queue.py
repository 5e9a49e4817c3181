"""The queue of one model: what waits there, how much may, and how long that will take. Pure."""

from sidecars.onnx.batch import Item, Load, Priority, Waiting
from sidecars.onnx.errors import overloaded


class Queue(Waiting[Load]):
    """Sequences that wait for the model `name`, which counts as `rate` tokens per second fast until it was measured.

    `memory`: how much of the speed that was measured before stays when it is measured again, from 0 to 1.
    """

    def __init__(self, name: str, most_tokens: int, *, rate: float, memory: float) -> None:
        super().__init__()
        self._name, self._most_tokens = name, most_tokens
        self._rate, self._memory = rate, memory
        self._order = 0

    def expect_room(self, tokens: int) -> None:
        """Raises ServiceError, 429, where so many more may not wait."""
        # A request of any size is taken when nothing waits: else the largest would never be.
        if self.tokens and self.tokens + tokens > self._most_tokens:
            raise overloaded(
                f"The queue of '{self._name}' is full: {self.tokens} tokens wait, this request has {tokens}, "
                f"{self._most_tokens} may wait.",
                self.wait_s(),
            )

    def put(self, tokens: int, priority: Priority, load: Load) -> Item[Load]:
        self._order += 1
        item = Item(self._order, tokens, priority, load)
        self.add(item)
        return item

    def ran(self, tokens: int, seconds: float) -> None:
        """Measures the speed anew."""
        self._rate = self._memory * self._rate + (1 - self._memory) * tokens / max(seconds, 1e-6)

    def wait_s(self) -> float:
        """How long what waits now will take."""
        return self.tokens / self._rate
