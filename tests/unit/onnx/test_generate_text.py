"""Text of tokens as they come, and stops in it: on any text, however it is cut."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers

from sidecars.onnx.generate.text import Stops, Vocabulary
from tests.support.tiny_decoder import SPECIALS, make_tokenizer

TOKENIZER = make_tokenizer()
SIZE = TOKENIZER.get_vocab_size()
BROKEN = "\N{REPLACEMENT CHARACTER}"


def _sentence_pieces() -> Tokenizer:
    """As SentencePiece makes them: words begin with a sign for the space, rare characters are bytes."""
    pieces = ["<s>", "</s>", "▁", *(f"<0x{byte:02X}>" for byte in range(256)), *"abcdeorst", "▁t", "he", "▁the"]
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he")]
    pieces.append("h")
    made = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens(["<s>", "</s>"])
    return made


def _vocabulary(tokenizer: Tokenizer, folder: Path) -> Vocabulary:
    tokenizer.save(str(folder / "tokenizer.json"))
    return Vocabulary(folder / "tokenizer.json")


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return _vocabulary(TOKENIZER, tmp_path_factory.mktemp("bytes"))


@pytest.fixture(scope="module")
def sentence_pieces(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return _vocabulary(_sentence_pieces(), tmp_path_factory.mktemp("pieces"))


@given(text=st.text(max_size=40).filter(lambda text: "▁" not in text))
def test_sentence_pieces_are_read_alike(sentence_pieces: Vocabulary, text: str) -> None:
    reader = sentence_pieces.reader()
    tokens = sentence_pieces.ids(text, special=False)
    assert "".join(map(reader.feed, tokens)) + reader.end() == text
    assert b"".join(map(sentence_pieces.bytes, tokens)) == (f" {text}".encode() if text else b"")


@given(text=st.text(max_size=60).filter(lambda text: BROKEN not in text))
def test_no_piece_ends_inside_a_character(vocabulary: Vocabulary, text: str) -> None:
    reader = vocabulary.reader()
    pieces = [reader.feed(token) for token in vocabulary.ids(text, special=False)]
    assert "".join(pieces) == text
    assert reader.end() == ""


@given(tokens=st.lists(st.integers(0, SIZE - 1), max_size=14))
def test_pieces_of_any_tokens_are_what_they_are_together(vocabulary: Vocabulary, tokens: list[int]) -> None:
    reader = vocabulary.reader()
    assert "".join(map(reader.feed, tokens)) + reader.end() == TOKENIZER.decode(tokens)


@given(noise=st.integers(0, 60), text=st.text(min_size=1, max_size=10))
def test_bytes_that_are_no_character_hold_up_nothing_for_long(vocabulary: Vocabulary, noise: int, text: str) -> None:
    byte = next(token for token in range(SIZE) if vocabulary.bytes(token) == b"\xff")
    reader = vocabulary.reader()
    pieces = [reader.feed(token) for token in [byte] * noise]
    assert len("".join(pieces)) > noise - 20
    pieces += map(reader.feed, vocabulary.ids(text, special=False))
    assert "".join(pieces) + reader.end() == BROKEN * noise + text


@given(text=st.text(max_size=30))
def test_the_bytes_of_tokens_are_those_of_their_text(vocabulary: Vocabulary, text: str) -> None:
    assert b"".join(map(vocabulary.bytes, vocabulary.ids(text, special=False))) == text.encode()


def test_special_tokens_have_names_and_no_text(vocabulary: Vocabulary) -> None:
    assert [vocabulary.bytes(token).decode() for token in range(len(SPECIALS))] == list(SPECIALS)
    reader = vocabulary.reader()
    assert "".join(map(reader.feed, range(len(SPECIALS)))) + reader.end() == ""


letters = st.text("ab", max_size=30)
stops = st.lists(st.text("ab", min_size=1, max_size=5), max_size=3)


def _until_stop(text: str, stops: list[str]) -> str | None:
    """What is in front of the stop that is complete first; None without one."""
    for end in range(len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)]
    return None


@given(text=letters, stops=stops, cuts=st.lists(st.integers(0, 30)))
def test_stops_end_the_text_wherever_it_is_cut(text: str, stops: list[str], cuts: list[int]) -> None:
    found = Stops(stops)
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    given = ""
    for begin, end in pairwise(places):
        given += found.feed(text[begin:end])
        assert text.startswith(given)
        if found.found:
            break
    given += found.end()
    wanted = _until_stop(text, stops)
    assert found.found == (wanted is not None)
    assert given == (text if wanted is None else wanted)


@given(text=letters, stops=stops)
def test_no_more_is_held_back_than_may_begin_a_stop(text: str, stops: list[str]) -> None:
    found = Stops(stops)
    given = "".join(map(found.feed, text))
    if not found.found:
        held = text[len(given) :]
        assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)
