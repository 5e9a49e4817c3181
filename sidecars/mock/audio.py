"""POST /v1/audio/speech (bytes) and /transcriptions, /translations (forms)."""

import hashlib
import struct
from typing import Any

from sidecars.mock.answer import Plain, json_answer, measure, with_usage
from sidecars.mock.call import Call
from sidecars.mock.errors import invalid
from sidecars.mock.prose import words

SPEECH_TYPES = {
    "mp3": b"audio/mpeg",
    "opus": b"audio/ogg",
    "aac": b"audio/aac",
    "flac": b"audio/flac",
    "wav": b"audio/wav",
    "pcm": b"audio/pcm",
}
_RATE = 24_000  # samples a second, 16 bits, mono: what OpenAI's pcm is
_SAMPLES_PER_WORD = 240


def speech(call: Call) -> Plain:
    """Noise made from the input, 10 ms a word or `size` bytes. `wav` plays; other formats are bytes of that type."""
    call.model()
    text = call.string("input")
    call.string("voice")
    wanted = call.choice("response_format", tuple(SPEECH_TYPES))
    size = call.controls.size
    length = words(text) * _SAMPLES_PER_WORD * 2 if size is None else size
    noise = hashlib.shake_256(text.encode()).digest(length)
    audio = _wav_header(length) + noise if wanted == "wav" else noise
    return Plain(audio, SPEECH_TYPES[wanted], measure(call, words(text)))


def _wav_header(length: int) -> bytes:
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, _RATE, _RATE * 2, 2, 16)
    return struct.pack("<4sI4s", b"RIFF", 36 + length, b"WAVE") + form + struct.pack("<4sI", b"data", length)


def transcription(call: Call) -> Plain:
    return _heard(call, "transcribe")


def translation(call: Call) -> Plain:
    return _heard(call, "translate")


def _heard(call: Call, task: str) -> Plain:
    """A sentence with the file's name and size, as `json`, `text`, `verbose_json`, `srt` or `vtt`."""
    call.model()
    file = next((file for file in call.body.files if file.field == "file"), None)
    if file is None:
        raise invalid("file", "an audio file")
    wanted = call.choice("response_format", ("json", "text", "verbose_json", "srt", "vtt"))
    text = f"{task.capitalize()} {file.name}, {len(file.content)} bytes."
    usage = measure(call, 0, words(text))
    if wanted == "text":
        return Plain(text.encode() + b"\n", b"text/plain; charset=utf-8", usage)
    if wanted == "srt":
        return Plain(f"1\n00:00:00,000 --> 00:00:01,000\n{text}\n\n".encode(), b"application/x-subrip", usage)
    if wanted == "vtt":
        return Plain(f"WEBVTT\n\n00:00.000 --> 00:01.000\n{text}\n\n".encode(), b"text/vtt; charset=utf-8", usage)
    found: dict[str, Any] = {"text": text}
    if wanted == "verbose_json":
        language = call.data.get("language", "english") if task == "transcribe" else "english"
        found |= {"task": task, "language": language, "duration": 1.0, "segments": []}
    reported = {
        "type": "tokens",
        "input_tokens": usage.prompt,
        "output_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
    }
    return json_answer(with_usage(call, found, reported), usage)
