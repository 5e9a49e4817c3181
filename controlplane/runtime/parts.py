"""What runs beside Envoy while a policy needs it: one shape for all of it."""

from controlplane.compiling import Compiled

Alarm = dict[str, str]


class Part:
    """A process, or several. Each of these does nothing where a part has nothing to do."""

    async def prepare(self, compiled: Compiled) -> None:
        """Before the push: it is ready for requests of this policy. Raises ApplyError, StartError, RunFolderError."""

    async def conclude(self, compiled: Compiled) -> None:
        """After the push, or after it was taken back: what this policy does not need, ends."""

    async def alarms(self) -> list[Alarm]:
        """What the operator should know."""
        return []


class Parts(Part):
    """Several as one, in the order in which they are started."""

    def __init__(self, *parts: Part) -> None:
        self._parts = parts

    async def prepare(self, compiled: Compiled) -> None:
        for part in self._parts:
            await part.prepare(compiled)

    async def conclude(self, compiled: Compiled) -> None:
        for part in self._parts:
            await part.conclude(compiled)

    async def alarms(self) -> list[Alarm]:
        return [alarm for part in self._parts for alarm in await part.alarms()]


def alarm(name: str, message: str) -> Alarm:
    return {"name": name, "message": message}
