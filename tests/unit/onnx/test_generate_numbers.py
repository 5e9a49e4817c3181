"""Generated tokens, held to transformers and to a model in numpy; and how tokens are chosen."""

import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sidecars.onnx.device import Device
from sidecars.onnx.errors import ServiceError
from sidecars.onnx.generate.card import read_generator_card
from sidecars.onnx.generate.choice import Choice, score
from sidecars.onnx.generate.generation import Asked, Generations, Piece
from sidecars.onnx.generate.loaded import open_model
from sidecars.onnx.generate.text import Vocabulary
from sidecars.onnx.settings import ModelSettings
from tests.support.tiny_decoder import ENDS, greedy, logits, weights

GREEDY = Choice(temperature=0)
EXPECTED = json.loads(Path(__file__).with_name("expected_generate.json").read_text())
WEIGHTS = weights(300, 1)


@pytest.fixture(scope="module")
def model(decoder: Path) -> Iterator[Generations]:
    card = read_generator_card(ModelSettings(decoder))
    found = Generations("it", open_model(card, Device("cpu"), 1), card, Vocabulary(card.tokenizer))
    yield found
    found.close()


@pytest.fixture(scope="module")
def vocabulary(decoder: Path) -> Vocabulary:
    return Vocabulary(decoder / "tokenizer.json")


def answer(model: Generations, asked: Asked) -> list[Piece]:
    made = model.begin(asked)
    pieces: list[Piece] = []
    try:
        while not pieces or pieces[-1].finish is None:
            piece = made.step().piece
            pieces += [] if piece is None else [piece]
    finally:
        made.close()
    return pieces


def tokens(model: Generations, prompt: list[int], count: int, choice: Choice = GREEDY, **more: Any) -> list[int]:
    pieces = answer(model, Asked(prompt, count, choice, logprobs=0, **more))
    return [scored.token for piece in pieces for scored in piece.tokens]


@pytest.mark.parametrize("one", [*EXPECTED["chats"], *EXPECTED["prompts"]], ids=lambda one: str(one["prompt"])[:20])
def test_greedy_answers_are_those_of_transformers(
    model: Generations, vocabulary: Vocabulary, one: dict[str, Any]
) -> None:
    prompt = vocabulary.ids(one["prompt"], special=False)
    assert len(prompt) == one["prompt_tokens"]
    pieces = answer(model, Asked(prompt, len(one["tokens"]), GREEDY, logprobs=3))
    scored = [scored for piece in pieces for scored in piece.tokens]
    assert [one.token for one in scored] == one["tokens"]
    assert [one.logprob for one in scored] == pytest.approx(one["logprobs"], abs=1e-4)
    assert all(one.top[0] == (one.token, one.logprob) for one in scored)
    assert "".join(piece.text for piece in pieces) == one["text"]
    assert (pieces[-1].generated, pieces[-1].finish) == (len(one["tokens"]), "length")


def test_a_prompt_is_fed_in_parts(model: Generations, vocabulary: Vocabulary) -> None:
    made = model.begin(Asked([5] * 600, 1, GREEDY))
    steps = [made.step() for _ in range(3)]
    made.close()
    assert [step.fed for step in steps] == [256, 256, 88]
    assert [step.piece is None for step in steps] == [True, True, False]


def test_models_whose_positions_change_get_their_prompts_at_once(decoder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(decoder, tmp_path / "phi"))
    config = (folder / "genai_config.json").read_text().replace('"llama"', '"phi3"')
    (folder / "genai_config.json").write_text(config)
    card = read_generator_card(ModelSettings(folder))
    source = Generations("it", open_model(card, Device("cpu"), 1), card, Vocabulary(card.tokenizer))
    made = source.begin(Asked([5] * 600, 1, GREEDY))
    assert made.step().fed == 600
    made.close()
    source.close()


PENALTIES = [
    Choice(temperature=0, presence=1.5),
    Choice(temperature=0, frequency=0.7),
    Choice(temperature=0, presence=-1.0, frequency=-0.5),
    Choice(temperature=0, repetition=1.3),
    Choice(temperature=0, bias={76: -100.0, 50: 2.5, 6: 1.0}),
    Choice(temperature=0, presence=0.5, repetition=1.1, bias={9: 3.0}),
]


@pytest.mark.parametrize("choice", PENALTIES, ids=range(len(PENALTIES)))
def test_penalties_are_those_of_the_formulas(model: Generations, vocabulary: Vocabulary, choice: Choice) -> None:
    prompt = vocabulary.ids("<s><|user|>the dog<|end|><|assistant|>", special=False)

    def change(row: Any, found: list[int]) -> Any:
        row = row.copy()
        for token, count in Counter(found).items():
            row[token] -= choice.presence + choice.frequency * count
        for token, bias in choice.bias.items():
            row[token] += bias
        seen = list({*prompt, *found})  # as in transformers' RepetitionPenaltyLogitsProcessor
        row[seen] = np.where(row[seen] < 0, row[seen] * choice.repetition, row[seen] / choice.repetition)
        return row

    wanted = greedy(WEIGHTS, prompt, 40, change)
    assert tokens(model, prompt, 40, choice) == [token for token in wanted if token not in ENDS]
    assert wanted != greedy(WEIGHTS, prompt, 40)


def test_a_token_that_ends_ends(model: Generations) -> None:
    (piece,) = answer(model, Asked([5, 6, 7], 10, Choice(temperature=0, bias={ENDS[0]: 100.0}), logprobs=2))
    assert piece == Piece("", (), 1, "stop")


def test_the_same_seed_gives_the_same_answer(model: Generations) -> None:
    drawn = [tokens(model, [5, 6, 7], 20, Choice(seed=seed)) for seed in (1, 2, 1, 2**40, None, None)]
    assert drawn[0] == drawn[2]
    assert len({tuple(one) for one in drawn}) == 5


def draw(model: Generations, choice: Choice, count: int = 300) -> Counter[int]:
    """The first tokens of so many seeds; what ends an answer is left out."""
    found = [tokens(model, [5, 6, 7], 1, replace(choice, seed=seed)) for seed in range(count)]
    return Counter(one[0] for one in found if one)


def shares(temperature: float = 1.0) -> Any:
    row = logits(WEIGHTS, [5, 6, 7])[-1].astype(np.float64) / temperature
    powers = np.exp(row - row.max())
    return powers / powers.sum()


def test_tokens_are_drawn_by_their_shares(model: Generations) -> None:
    for temperature in (1.0, 0.5):
        drawn, wanted = draw(model, Choice(temperature=temperature)), shares(temperature)
        for token in np.argsort(-wanted)[:4]:
            spread = 4 * np.sqrt(wanted[token] * (1 - wanted[token]) / 300)
            assert abs(drawn[int(token)] / 300 - wanted[token]) < spread


def test_top_k_and_top_p_draw_from_the_likeliest_only(model: Generations) -> None:
    order = np.argsort(-shares())
    assert set(draw(model, Choice(top_k=3))) == set(order[:3].tolist())
    assert set(draw(model, Choice(top_p=0.3))) == set(
        order[: int((np.cumsum(shares()[order]) < 0.3).sum()) + 1].tolist()
    )
    for choice in (Choice(temperature=0), Choice(top_k=1), Choice(top_p=0)):
        assert set(draw(model, choice, 3)) == {int(order[0])}


def test_stops_end_an_answer_in_front_of_them(model: Generations, vocabulary: Vocabulary) -> None:
    one = EXPECTED["chats"][0]
    prompt, text = vocabulary.ids(one["prompt"], special=False), str(one["text"])
    for stop in (text[3:6], text[0], text[10:11], text[4:8]):
        pieces = answer(model, Asked(prompt, 48, GREEDY, ("never there", stop), logprobs=0))
        assert "".join(piece.text for piece in pieces) == text[: text.index(stop)]
        assert pieces[-1].finish == "stop"
        # As many tokens as the stop needs, and not one more.
        made = one["tokens"][: pieces[-1].generated]
        assert stop in vocabulary_text(vocabulary, made)
        assert stop not in vocabulary_text(vocabulary, made[:-1])
        shown = [scored.token for piece in pieces for scored in piece.tokens]
        assert shown == made[: len(shown)]


def vocabulary_text(vocabulary: Vocabulary, made: list[int]) -> str:
    reader = vocabulary.reader()
    return "".join(map(reader.feed, made)) + reader.end()


@pytest.mark.parametrize("seed", [1, 2])
def test_guidance_gives_what_the_grammar_allows(model: Generations, vocabulary: Vocabulary, seed: int) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "boolean"}}, "required": ["name"],
              "additionalProperties": False}  # fmt: skip
    asked = Asked([0, 5], 400, Choice(seed=seed, presence=1.0), guidance=("json_schema", json.dumps(schema)))
    pieces = answer(model, asked)
    assert pieces[-1].finish == "stop"
    assert isinstance(json.loads("".join(piece.text for piece in pieces))["name"], bool)


def test_a_grammar_that_is_none_is_the_clients_mistake(model: Generations) -> None:
    with pytest.raises(ServiceError, match="Invalid type") as refused:
        model.begin(Asked([5], 5, GREEDY, guidance=("json_schema", '{"type": "bogus"}')))
    assert (refused.value.status, refused.value.param) == (400, "response_format")


def test_other_threads_go_on_while_the_model_runs(decoder: Path) -> None:
    # A run that keeps the interpreter's lock lets nobody tick: once before it and once behind it at most.
    assert any(_ticks_during_a_run(decoder) > 3 for _ in range(10))  # a busy machine may keep it from a run or two


def _ticks_during_a_run(decoder: Path) -> int:
    """How often another thread had a turn."""
    card = read_generator_card(ModelSettings(decoder))
    generator = open_model(card, Device("cpu"), 1).generator({"max_length": 2048}, None)
    span: list[float] = []

    def run() -> None:
        span.append(time.perf_counter())
        generator.append([5] * 2000)
        span.append(time.perf_counter())

    thread = threading.Thread(target=run)
    thread.start()
    ticks = []
    while thread.is_alive():
        time.sleep(0.001)
        ticks.append(time.perf_counter())
    generator.close()
    return sum(span[0] < tick < span[1] for tick in ticks)


rows = arrays(np.float32, 12, elements=st.floats(-50, 50, width=32))


@given(rows, st.integers(0, 11), st.integers(0, 12))
def test_scores_are_logarithms_of_shares(row: Any, token: int, count: int) -> None:
    found = score(row, token, count)
    wanted = row.astype(np.float64) - row.max()
    wanted = wanted - np.log(np.exp(wanted).sum())
    assert found.logprob == pytest.approx(wanted[token], abs=1e-9)
    assert [logprob for _, logprob in found.top] == pytest.approx(np.sort(wanted)[::-1][:count].tolist())
    assert len({other for other, _ in found.top}) == count
