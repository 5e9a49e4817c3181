"""What the language says about local models: a provider that the gateway runs itself, on onnxruntime."""

from typing import Annotated, Literal

from pydantic import Field

from controlplane.policy.limits import LimitNames
from controlplane.policy.types import (
    Clock,
    Count,
    Device,
    Label,
    Memory,
    ModelFolder,
    OnnxFile,
    Strict,
    UpstreamModel,
)


class OnnxModel(Strict):
    """A model in a folder as Hugging Face's libraries save it, with an ONNX file. See docs/onnx.md."""

    path: ModelFolder = Field(description="Its folder, relative to the policy.")
    file: OnnxFile | None = Field(
        None, description="The ONNX file in it; `model.onnx`, `onnx/model.onnx` or the only one there is by default."
    )
    task: Literal["embed", "rerank", "classify", "nli", "generate"] | None = Field(
        None,
        description="What it is for; what its `config.json` says by default, or `generate` with a `genai_config.json`.",
    )
    device: Device = Field("cpu", description="Where it runs: `cpu`, `cuda` or `cuda:N`.")
    threads: Count | None = Field(None, description="Threads of one run; the provider's by default.")
    max_tokens: Count | None = Field(
        None,
        description="A text is cut there, and a prompt with its answer bounded; what the folder says by default, "
        "which this can only lower.",
    )
    max_output_tokens: Count | None = Field(None, description="Tokens of one generated answer; 4096 by default.")
    generations: Count | None = Field(None, description="Generated answers in work at once; 8 by default.")
    pooling: Literal["mean", "mean_sqrt_len_tokens", "max", "cls", "lasttoken"] | None = Field(
        None, description="How the vectors of tokens become one; what the folder says by default."
    )
    normalize: bool | None = Field(
        None, description="Whether embeddings are unit vectors; what the folder says by default."
    )
    labels: Annotated[list[Label], Field(min_length=1)] | None = Field(
        None, description="Names of the classes, in the order of the logits; those of `config.json` by default."
    )
    batch_tokens: Count | None = Field(
        None,
        description="Tokens that are fed at once, padding included; 1024 on a CPU and 16384 on a GPU by default. "
        "Of a model that generates, tokens of all answers in work, with their prompts; 16384 and 65536.",
    )
    queue_tokens: Count = Field(65_536, description="Tokens that may wait; beyond them, 429.")
    max_requests: Count = Field(1024, description="Requests in work at once; beyond them, 429.")
    memory: Memory | None = Field(None, description="What it takes of the provider's memory; estimated by default.")
    preload: bool = Field(False, description="Load it at the start instead of with the first request.")
    idle_unload: Clock | None = Field(None, description="Unload it when nobody asked for it so long; never by default.")


class OnnxProvider(Strict):
    """Local models: embeddings, reranking, classification, inference and text, in a process that the gateway runs."""

    kind: Literal["onnx"] = Field(description="The API it speaks.")
    models: Annotated[dict[UpstreamModel, OnnxModel], Field(min_length=1)] = Field(description="Its models, by name.")
    memory: dict[Device, Memory] = Field(
        {}, description="What its models may take together, by device. When it is full, the least recently used goes."
    )
    threads: Count | None = Field(None, description="Threads of one run; one per processor by default.")
    tokenizer_threads: Count | None = Field(
        None, description="Threads that tokenize; one per processor by default. An edit starts the process anew."
    )
    max_inputs: Count = Field(2048, description="Texts (or pairs) in one request.")
    retry_failed: Clock = Field(30_000, description="How long a model that could not be loaded is not tried again.")
    limits: LimitNames = Field([], description="Limits on the requests of models that it may serve.")
