"""What the service says of itself to a control plane."""

from dataclasses import dataclass

from sidecars.announce import Busy, ServiceAwayError
from sidecars.onnx.fleet import Fleet


@dataclass(slots=True)
class Load:
    """How busy a fleet is. Until what is to be loaded ahead was tried once, nobody should come."""

    fleet: Fleet
    _began: bool = False

    async def __call__(self) -> Busy:
        self._began = self._began or not self.fleet.starting
        if not self._began:
            raise ServiceAwayError("its models are being loaded")
        requests = sum(model.reading().requests for model in self.fleet.models.values())
        return Busy(running=requests, models=tuple(self.fleet.models))
