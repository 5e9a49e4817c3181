"""SIGINT and SIGTERM of `ctl up`: they end a start at once, and what serves in good order, unless they come again."""

import asyncio
import signal
from dataclasses import dataclass, field


@dataclass(slots=True)
class Ending:
    """Make it in the task that is to end. Until `wait` is called, and from its return on, a signal cancels the task."""

    _waiting: bool = False
    _seen: asyncio.Event = field(default_factory=asyncio.Event)
    _task: "asyncio.Task[None] | None" = field(default_factory=asyncio.current_task)

    def __post_init__(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signalled)

    async def wait(self) -> None:
        self._waiting = True
        await self._seen.wait()

    def _signalled(self) -> None:
        if self._task is not None and (self._seen.is_set() or not self._waiting):
            self._task.cancel()
        self._seen.set()
