"""All models of one service."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from sidecars.onnx.errors import ServiceError, unknown_model
from sidecars.onnx.memory import Memory
from sidecars.onnx.metrics import Metrics
from sidecars.onnx.models import Model, Reason
from sidecars.onnx.settings import Settings


class Fleet:
    """The models by name. `starting`: models that are loaded ahead of any request are not all tried yet."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.metrics = metrics
        memory = Memory(settings.memory_bytes)
        self.models: Mapping[str, Model] = {
            name: Model(name, own, memory, metrics, threads=settings.threads, retry_s=settings.retry_failed_s)
            for name, own in settings.models.items()
        }
        memory.watch(self.models.values())
        metrics.watch(lambda: [model.reading() for model in self.models.values()])
        self._preload: asyncio.Task[None] | None = None

    @property
    def starting(self) -> bool:
        return self._preload is not None and not self._preload.done()

    def find(self, name: str) -> Model:
        """Raises ServiceError, 404."""
        model = self.models.get(name)
        if model is None:
            raise unknown_model(name, self.models)
        return model

    def start(self) -> None:
        """Begins to load what the settings want loaded ahead."""
        self._preload = asyncio.create_task(self._load_ahead())

    async def close(self) -> None:
        """Ends every model after what it has in work."""
        if self._preload is not None:
            self._preload.cancel()
            with suppress(asyncio.CancelledError):
                await self._preload
        await asyncio.gather(*(model.unload(Reason.STOP) for model in self.models.values()))

    async def _load_ahead(self) -> None:
        for model in self.models.values():
            if model.settings.preload:
                # The model's state and the log tell why; the next one may be better.
                with suppress(ServiceError):
                    await model.load()
