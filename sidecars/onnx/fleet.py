"""All models of one service, as the settings have them at the moment."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from sidecars.onnx.errors import ServiceError, unknown_model
from sidecars.onnx.memory import Memory
from sidecars.onnx.metrics import Metrics
from sidecars.onnx.models import Model, Reason
from sidecars.onnx.settings import Settings


class Fleet:
    """The models by name. Belongs to the event loop."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.metrics = metrics
        self.settings = settings
        self.models: Mapping[str, Model] = {}
        self._memory = Memory()
        self._retired: dict[Model, asyncio.Task[None]] = {}
        self._preload: asyncio.Task[None] | None = None
        metrics.watch(lambda: [model.reading() for model in self.models.values()])
        self._follow(settings)

    @property
    def starting(self) -> bool:
        """Whether a model that is to be loaded ahead was not tried yet."""
        return self._preload is not None and not self._preload.done()

    def find(self, name: str) -> Model:
        """Raises ServiceError, 404."""
        model = self.models.get(name)
        if model is None:
            raise unknown_model(name, self.models)
        return model

    def start(self) -> None:
        """Begins to load what the settings want loaded ahead."""
        if self._preload is not None:
            self._preload.cancel()
        self._preload = asyncio.create_task(self._load_ahead())

    def apply(self, settings: Settings) -> None:
        """Puts other settings in force. A model that is as before stays as it is; one that is another, or gone, serves
        the requests that it has and goes."""
        for model in self._follow(settings):
            self._retired[model] = asyncio.create_task(self._retire(model))
        self._share()
        self.start()

    async def close(self) -> None:
        """Ends every model after what it has in work."""
        if self._preload is not None:
            self._preload.cancel()
            with suppress(asyncio.CancelledError):
                await self._preload
        await asyncio.gather(
            *(model.unload(Reason.STOP) for model in self.models.values()), *self._retired.values()
        )  # fmt: skip

    def _follow(self, settings: Settings) -> list[Model]:
        """Has the models of the settings, and returns those that are theirs no longer."""
        before, self.settings = self.models, settings
        self.models = {name: self._keep(name, before.get(name)) for name in settings.models}
        self._share()
        return [model for name, model in before.items() if self.models.get(name) is not model]

    def _keep(self, name: str, known: Model | None) -> Model:
        own, common = self.settings.models[name], self.settings
        if known is not None and known.settings == own and known.threads == (own.threads or common.threads):
            known.retry_s = common.retry_failed_s
            return known
        return Model(
            name, own, self._memory, self.metrics, threads=common.threads, retry_s=common.retry_failed_s
        )  # fmt: skip

    def _share(self) -> None:
        self._memory.share(self.settings.memory_bytes, [*self.models.values(), *self._retired])

    async def _retire(self, model: Model) -> None:
        try:
            await model.retire()
        finally:
            del self._retired[model]
            self._share()

    async def _load_ahead(self) -> None:
        for model in self.models.values():
            if model.settings.preload:
                # The model's state and the log tell why; the next one may be better.
                with suppress(ServiceError):
                    await model.load()
