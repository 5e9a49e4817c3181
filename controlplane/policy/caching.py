"""What the language says about the response cache."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from controlplane.policy.types import Duration, ModelName, Size, Strict, UrlType

_YEAR_MS = 366 * 86_400_000
_MOST = 16 << 20


def _ttl(ms: int) -> int:
    if not 1000 <= ms <= _YEAR_MS:
        raise ValueError("an answer holds for 1s to 366d")
    return ms


def _most(size: int) -> int:
    if size > _MOST:
        raise ValueError("answers of 16MiB at most are stored")
    return size


class Semantic(Strict):
    """Requests that mean the same are the same."""

    model: ModelName = Field(description="The model for embeddings: one of this policy, or of `address`.")
    threshold: Annotated[float, Field(ge=0.5, le=1)] = Field(
        0.95, description="How near the embeddings have to be: their cosine; 1 is equal."
    )
    address: UrlType | None = Field(
        None, description="Another API that has the model, such as http://10.0.0.7:8000/v1; no credential is sent."
    )


class Cache(Strict):
    """Answers that were given before are given again."""

    ttl: Annotated[Duration, AfterValidator(_ttl)] = Field(3_600_000, description="How long an answer holds.")
    scope: Literal["key", "team", "shared"] = Field(
        "key", description="Who shares answers: each key by itself, the keys of a team, or everyone."
    )
    store: Literal["memory", "redis"] = Field(
        "memory", description="Where answers are: with this gateway, or in `gateway.redis` for all that use it."
    )
    semantic: Semantic | None = Field(None, description="Answer requests that mean the same, too.")
    deterministic: bool = Field(False, description="Only requests with temperature 0 or a seed, and embeddings.")
    tools: bool = Field(True, description="Also requests that offer tools.")
    headers: bool = Field(True, description="Clients may bypass or refresh the cache by request headers.")
    most: Annotated[Size, AfterValidator(_most)] = Field(1 << 20, description="The largest answer that is stored.")


def settings(told: Mapping[str, Any]) -> dict[str, Any]:
    """What the stage is told, from what is written."""
    written = Cache.model_validate(told)
    made = written.model_dump(include={"scope", "store", "deterministic", "tools", "headers"})
    made |= {"ttl_s": written.ttl // 1000, "most_bytes": written.most}
    if (semantic := written.semantic) is not None:
        address = str(semantic.address) if semantic.address else None
        made["semantic"] = {"model": semantic.model, "threshold": semantic.threshold, "address": address}
    return made
