"""What the language says about webhooks that judge requests and answers."""

from typing import Annotated, Any, Literal

from pydantic import Field

from controlplane.policy.types import Clock, Strict, WebhookName


class Guard(Strict):
    """Asks a webhook what to do. Its name alone is short for `{to: NAME}`."""

    to: WebhookName = Field(description="A webhook of this policy.")
    on: Literal["request", "answer", "both"] = Field("both", description="What it is asked about.")
    timeout: Clock = Field(2_000, description="How long a verdict may take; less than `gateway.rule_timeout`.")
    concurrent: Annotated[int, Field(ge=1, le=10_000)] = Field(
        64, description="Calls at once, of each worker; others wait, within their time."
    )
    streams: Literal["hold", "pass"] = Field(
        "hold", description="Streamed answers are held until they are whole, or pass unseen."
    )


def spelled_out(told: Any) -> Any:
    """A name alone is a mapping with that name."""
    return {"to": told} if isinstance(told, str) else told


def settings(told: Any) -> dict[str, Any]:
    """What the stage is told, from what is written."""
    written = Guard.model_validate(spelled_out(told))
    return {**written.model_dump(exclude={"timeout"}), "timeout_ms": written.timeout}
