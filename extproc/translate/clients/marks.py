"""`cache_control`, as Anthropic writes it and OpenRouter's clients do, too."""

from extproc.translate.fields import Fields
from extproc.translate.losses import Losses
from extproc.translate.neutral import Cache


def cache_mark(fields: Fields, losses: Losses) -> Cache | None:
    """Takes the mark from an object that has it."""
    mark = fields.within("cache_control")
    if mark is None:
        return None
    kind = mark.need_text("type")
    ttl = mark.text("ttl") or ""
    mark.done()
    if kind != "ephemeral":
        losses.hint(mark.at)
        return None
    return Cache(ttl, mark.at)
