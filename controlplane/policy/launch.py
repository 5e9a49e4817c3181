"""What the language says about a server of vLLM that the gateway starts itself."""

from typing import Annotated

from pydantic import Field

from controlplane.policy.types import (
    Argument,
    Clock,
    Folder,
    ModelSource,
    Strict,
    UpstreamModel,
    Variable,
    VariableName,
)


class Launch(Strict):
    """A server of vLLM that the gateway runs, in the environment in which vLLM is installed. See docs/vllm.md."""

    model: ModelSource = Field(
        description="What it serves: a folder or file, beginning with `./`, `../` (relative to the policy) or `/`; "
        "otherwise a name that vLLM looks up itself, such as Qwen/Qwen3-0.6B."
    )
    python: Folder = Field(description="The interpreter of vLLM's own environment, relative to the policy.")
    names: Annotated[list[UpstreamModel], Field(min_length=1)] | None = Field(
        None, description="The names that it serves the model by; by default its name, or the last part of its path."
    )
    args: list[Argument] = Field([], description="More arguments for the server, such as --max-model-len, 8192.")
    env: dict[VariableName, Variable] = Field(
        {}, description="Variables of its environment; secrets by reference. It inherits little else."
    )
    ready_within: Clock = Field(
        600_000, description="How long it may take to serve, from its start or since it last did; then it is restarted."
    )
    drain: Clock = Field(60_000, description="How long requests in flight may take when it is to end.")
    stop_within: Clock = Field(30_000, description="How long it may take to end after that, before it is killed.")

    @property
    def is_path(self) -> bool:
        return self.model.startswith(("/", "./", "../"))

    @property
    def served(self) -> tuple[str, ...]:
        """The names that it serves the model by."""
        if self.names is not None:
            return tuple(dict.fromkeys(self.names))
        return (self.model.rstrip("/").rpartition("/")[2] if self.is_path else self.model,)

    @property
    def adapters(self) -> bool:
        """Whether it may serve more than its model, under names that only it knows."""
        return any(arg.partition("=")[0] in ("--lora-modules", "--enable-lora") for arg in self.args)
