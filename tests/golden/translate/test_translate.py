"""One file per case: who talks to whom, a request, what is sent; then perhaps an answer, and what the client gets.

The parts `request` and `answer` are given; `sent` and `client` are what the translation makes of them. An answer in the
form of an AWS event stream is written as one line for each frame: `messageStart {...}`, exceptions with a `!` before.
To accept what the translation now says, run `HEADGATE_GOLDEN=write pytest tests/golden/translate` and read the
difference. Every stream is also given byte by byte, which must not make a difference.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from extproc import translate
from tests.unit.translate.frames import frame

CASES = sorted(Path(__file__).with_name("cases").glob("*.txt"))
STAMP = translate.Stamp("chatcmpl-0f1e2d", 1_767_225_600)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_translates_to(case: Path) -> None:
    parts = re.split(r"^--- (.*)\n", case.read_text(), flags=re.MULTILINE)
    head, given = yaml.safe_load(parts[0]), list(zip(parts[1::2], parts[2::2], strict=True))
    found = parts[0] + "".join(f"--- {name}\n{text}" for name, text in translated(head, given))
    if os.environ.get("HEADGATE_GOLDEN") == "write":
        case.write_text(found)
        return
    assert found == case.read_text()


def translated(head: dict[str, Any], given: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The parts of the file, with those that the translation makes as it makes them now."""
    options = translate.Options(**head.get("options", {}))
    request = given[0][1].encode()
    result = translate.request(head["client"], head["provider"], request, head["model"], STAMP, options)
    parts = [given[0]]
    if isinstance(result, translate.Refused):
        return [*parts, ("refused", answered(translate.refusal(result, head["client"])))]
    parts.append(("sent", sent(result)))
    for name, text in given:
        if name.startswith("answer "):
            parts += [(name, text), ("client", received(result.exchange, name, text))]
    return parts


def sent(upstream: translate.Upstream) -> str:
    lines = [f"POST {upstream.path}", *(f"{name}: {value}" for name, value in upstream.headers.items())]
    lines += [f"dropped: {name}" for name in upstream.dropped] + [f"warning: {text}" for text in upstream.warnings]
    body = upstream.body.decode() if upstream.exchange.untouched else shown(upstream.body)
    return "\n".join(lines) + "\n" + body


def received(exchange: translate.Exchange, name: str, text: str) -> str:
    _, status, media_type, *more = name.split(" ")
    headers = {"content-type": media_type} | dict(pair.split("=", 1) for pair in more)
    body = event_stream(text) if media_type == "application/vnd.amazon.eventstream" else text.encode()
    if not exchange.streams(int(status), headers):
        return answered(exchange.whole(int(status), headers, body))
    whole, pieces = (exchange.stream()[1] for _ in range(2))
    out = whole.feed(body) + whole.end() + whole.end()
    assert out == b"".join(pieces.feed(body[i : i + 1]) for i in range(len(body))) + pieces.end()
    return out.decode()


def event_stream(text: str) -> bytes:
    frames = []
    for line in text.splitlines():
        name, _, payload = line.partition(" ")
        frames.append(frame(name.removeprefix("!"), payload.encode(), error=name.startswith("!")))
    return b"".join(frames)


def answered(answer: translate.Answer) -> str:
    lines = [str(answer.status), *(f"{name}: {value}" for name, value in answer.headers.items())]
    return "\n".join(lines) + "\n" + shown(answer.body)


def shown(body: bytes) -> str:
    try:
        return json.dumps(json.loads(body), indent=1, ensure_ascii=False) + "\n"
    except ValueError:
        return body.decode()
