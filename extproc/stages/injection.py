"""Prompt injection, by its usual wording: heuristics with weights. They find what is blunt, not what is clever."""

from dataclasses import dataclass
from typing import Any

from extproc.stages.regex import compiled_bytes

_INSTRUCTIONS = r"(?:instruction|prompt|rule|direction|guideline|command|message|context|training)s?"
_EARLIER = r"(?:previous|prior|above|earlier|preceding|initial|original|system|your|foregoing)"
_WORDS = r"\W+(?:\w+\W+)"
# What tells of an injection: a name, a weight, and the wording, in any case.
_SIGNS: tuple[tuple[str, float, str], ...] = (
    (
        "override",
        1.0,
        rf"\b(?:ignore|disregard|forget|override|bypass|skip){_WORDS}{{0,4}}{_EARLIER}{_WORDS}{{0,2}}{_INSTRUCTIONS}\b"
        rf"|\b(?:ignore|disregard|forget)\W+(?:everything|anything|all){_WORDS}{{0,3}}(?:above|before|said|told)\b",
    ),
    (
        "reveal",
        0.7,
        rf"\b(?:reveal|print|show|repeat|output|leak|tell\W+me|what\W+(?:is|are|was)){_WORDS}{{0,4}}"
        rf"(?:system|hidden|initial|secret|original)\W+{_INSTRUCTIONS}\b",
    ),
    ("role", 0.6, r"\byou\W+are\W+(?:now|no\W+longer)\b"),
    ("mode", 0.8, r"\b(?:DAN|developer|debug|god|sudo|jailbreak|unrestricted)\W+mode\b|\bdo\W+anything\W+now\b"),
    (
        "limits",
        0.6,
        r"\b(?:without|no|free\W+of|remove)\W+(?:any\W+|all\W+)?"
        r"(?:restrictions|filters|limitations|censorship|guardrails|safety\W+rules)\b",
    ),
    (
        "concealment",
        0.6,
        r"\bdo\W+not\W+(?:tell|inform|(?:mention|reveal)\W+(?:this|it)\W+to)\W+(?:the\W+)?(?:user|human|anyone)\b",
    ),
    ("markup", 1.0, r"<\|(?:im_start|im_end|system|endoftext|start_header_id|eot_id)\|>|\[/?INST\]|<</?SYS>>"),
    ("heading", 0.5, r"</?(?:system|assistant|instructions?)>|(?:^|\n)#{1,4} ?(?:system|new instructions?)\b"),
    # Letters of the tag block and runs of zero-width characters show nothing and are read by models all the same.
    ("hidden", 1.0, r"[\x{E0020}-\x{E007E}]{4,}|[\x{200B}-\x{200D}\x{2060}\x{FEFF}]{8,}"),
)


@dataclass(frozen=True, slots=True)
class Score:
    """`value`: the sum of the signs' weights, each sign once. `signs`: their names."""

    value: float
    signs: tuple[str, ...]


class Heuristics:
    """Compiled once. Linear time."""

    def __init__(self) -> None:
        self._any: Any = compiled_bytes("(?i:" + "|".join(f"(?:{source})" for _, _, source in _SIGNS) + ")")
        self._signs = [(name, weight, compiled_bytes(f"(?i:{source})")) for name, weight, source in _SIGNS]

    def score(self, text: str) -> Score:
        data = text.encode()
        if self._any.search(data) is None:
            return _NONE
        found = [(name, weight) for name, weight, pattern in self._signs if pattern.search(data)]
        return Score(sum([weight for _, weight in found]), tuple(dict.fromkeys([name for name, _ in found])))


_NONE = Score(0.0, ())
