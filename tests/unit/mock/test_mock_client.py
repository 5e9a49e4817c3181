"""The official client reads every answer of the mock."""

import base64
import io
import json
import math
import wave
from typing import Any

import httpx
import jsonschema
import openai
import pytest
from PIL import Image

_TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "minLength": 2}, "days": {"type": "integer", "minimum": 1}},
            "required": ["city", "days"],
        },
    },
}
_SCHEMA: Any = {
    "type": "object",
    "properties": {
        "answer": {"type": "string"},
        "kind": {"enum": ["a", "b"]},
        "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
        "marks": {"type": "array", "minItems": 2, "items": {"$ref": "#/$defs/mark"}},
    },
    "required": ["answer", "kind", "next", "marks"],
    "additionalProperties": False,
    "$defs": {"mark": {"type": "number", "exclusiveMinimum": 3}},
}


def say(text: str) -> list[Any]:
    return [{"role": "system", "content": "be brief"}, {"role": "user", "content": text}]


def test_chat_echoes_the_last_user_message_and_counts_words(client: openai.OpenAI) -> None:
    history: list[Any] = [*say("first"), {"role": "assistant", "content": "reply"}]
    parts: Any = {"role": "user", "content": [{"type": "text", "text": "a  photo of"}, {"type": "text", "text": "me"}]}
    answer = client.chat.completions.create(model="anything-at-all", messages=[*history, parts])
    assert answer.model == "anything-at-all"
    assert answer.choices[0].message.content == "You said: a  photo of\nme"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (8, 6, 14)


def test_answers_are_a_function_of_the_request(client: openai.OpenAI, http: httpx.Client) -> None:
    ask: Any = {"model": "m", "messages": say("hi")}
    first, second = (http.post("/v1/chat/completions", json=ask) for _ in range(2))
    other = http.post("/v1/chat/completions", json=ask | {"seed": 1})
    assert first.content == second.content
    assert first.headers == second.headers
    assert first.json()["id"] != other.json()["id"]
    assert first.headers["x-request-id"] != other.headers["x-request-id"]


@pytest.mark.parametrize("include_usage", [False, True])
def test_streamed_chat_is_the_plain_answer_in_chunks(client: openai.OpenAI, include_usage: bool) -> None:
    plain = client.chat.completions.create(model="m", messages=say("one two three"))
    options: Any = {"stream_options": {"include_usage": True}} if include_usage else {}
    chunks = list(client.chat.completions.create(model="m", messages=say("one two three"), stream=True, **options))
    answers = [chunk for chunk in chunks if chunk.choices]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in answers) == plain.choices[0].message.content
    assert answers[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in answers] == [None] * 6 + ["stop"]
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in answers)
    if include_usage:
        assert chunks[-1].choices == []
        assert chunks[-1].usage == plain.usage
    assert len(chunks) == len(answers) + include_usage


def test_stream_spells_out_null_usage_only_when_usage_was_asked_for(http: httpx.Client) -> None:
    ask: Any = {"model": "m", "messages": say("hi"), "stream": True}
    without = http.post("/v1/chat/completions", json=ask).text
    with_usage = http.post("/v1/chat/completions", json=ask | {"stream_options": {"include_usage": True}}).text
    assert "usage" not in without
    events = [json.loads(line.removeprefix("data: ")) for line in with_usage.split("\n\n")[:-2]]
    assert [event["usage"] is None for event in events] == [True] * (len(events) - 1) + [False]
    assert without.endswith("data: [DONE]\n\n")
    assert with_usage.endswith("data: [DONE]\n\n")


def test_n_stop_and_limits(client: openai.OpenAI) -> None:
    several = client.chat.completions.create(model="m", messages=say("a b"), n=3)
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    assert several.usage is not None
    assert several.usage.completion_tokens == 12
    stopped = client.chat.completions.create(model="m", messages=say("a STOP b"), stop=["never", " STOP"])
    assert stopped.choices[0].message.content == "You said: a"
    for limit in ({"max_tokens": 3}, {"max_completion_tokens": 3}):
        short = client.chat.completions.create(model="m", messages=say("a b c"), **limit)  # type: ignore[call-overload]
        assert short.choices[0].message.content == "You said: a"
        assert short.choices[0].finish_reason == "length"
        assert short.usage.completion_tokens == 3
    streamed = list(client.chat.completions.create(model="m", messages=say("a b"), n=2, stream=True))
    texts = {0: "", 1: ""}
    for chunk in streamed:
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == {0: "You said: a b", 1: "You said: a b"}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_required_tool_is_called(client: openai.OpenAI, choice: Any) -> None:
    ask: Any = {"model": "m", "messages": say("weather?"), "tools": [_TOOL], "tool_choice": choice}
    call = client.chat.completions.create(**ask).choices[0]
    assert call.finish_reason == "tool_calls"
    assert call.message.content is None
    tool = call.message.tool_calls[0]
    assert tool.function.name == "get_weather"
    assert json.loads(tool.function.arguments) == {"city": "xx", "days": 1}
    deltas = [chunk.choices[0].delta for chunk in client.chat.completions.create(**ask, stream=True)]
    first = deltas[0].tool_calls[0]
    assert (first.function.name, first.function.arguments) == ("get_weather", "")
    pieces = [delta.tool_calls[0].function.arguments for delta in deltas[1:] if delta.tool_calls]
    assert "".join(pieces) == tool.function.arguments


def test_offered_tools_that_are_not_required_are_not_called(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="m", messages=say("hi"), tools=[_TOOL], tool_choice="auto")
    assert answer.choices[0].message.tool_calls is None


def test_json_formats(client: openai.OpenAI) -> None:
    free = client.chat.completions.create(model="m", messages=say("hi"), response_format={"type": "json_object"})
    assert json.loads(free.choices[0].message.content or "") == {"reply": "You said: hi"}
    form: Any = {"type": "json_schema", "json_schema": {"name": "s", "schema": _SCHEMA, "strict": True}}
    strict = client.chat.completions.create(model="m", messages=say("hi"), response_format=form)
    jsonschema.validate(json.loads(strict.choices[0].message.content or ""), _SCHEMA)


def test_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="m", prompt=["one two", "three"], n=2, echo=True)
    assert [choice.text for choice in answer.choices] == ["one twoYou said: one two"] * 2 + ["threeYou said: three"] * 2
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 14)
    ids = client.completions.create(model="m", prompt=[11, 12, 13])
    assert ids.choices[0].text == "You said: 11 12 13"
    assert ids.usage is not None
    assert ids.usage.prompt_tokens == 3
    options: Any = {"include_usage": True}
    chunks = list(client.completions.create(model="m", prompt="a b", stream=True, stream_options=options))
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == "You said: a b"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 4


def test_embeddings_are_unit_vectors_of_the_text(client: openai.OpenAI, http: httpx.Client) -> None:
    both = client.embeddings.create(model="e", input=["one two", "three"])
    assert [len(item.embedding) for item in both.data] == [1536, 1536]
    assert both.usage.prompt_tokens == 3
    assert all(math.isclose(math.hypot(*item.embedding), 1, rel_tol=1e-5) for item in both.data)
    assert both.data[0].embedding != both.data[1].embedding
    alone = client.embeddings.create(model="e", input="one two", encoding_format="float")
    assert alone.data[0].embedding == pytest.approx(both.data[0].embedding, abs=1e-7)
    assert len(client.embeddings.create(model="e", input="x", dimensions=8).data[0].embedding) == 8
    ids = client.embeddings.create(model="e", input=[[1, 2], [3]])
    assert (len(ids.data), ids.usage.prompt_tokens) == (2, 3)
    packed = http.post("/v1/embeddings", json={"model": "e", "input": "x", "encoding_format": "base64"}).json()
    assert len(base64.b64decode(packed["data"][0]["embedding"])) == 4 * 1536


def test_responses(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="m", input="hello there", instructions="be brief")
    assert answer.output_text == "You said: hello there"
    assert answer.status == "completed"
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (4, 4)
    with client.responses.stream(model="m", input=[{"role": "user", "content": "hello there"}]) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert final.output_text == "You said: hello there"
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == final.output_text
    assert [event.sequence_number for event in events] == list(range(len(events)))
    short = client.responses.create(model="m", input="a b c d", max_output_tokens=3)
    assert (short.status, short.output_text) == ("incomplete", "You said: a")


def test_responses_call_tools_and_keep_to_schemas(client: openai.OpenAI) -> None:
    tool: Any = {"type": "function", "strict": True, **_TOOL["function"]}
    ask: Any = {"model": "m", "input": "weather?", "tools": [tool], "tool_choice": "required"}
    call = client.responses.create(**ask).output[0]
    assert (call.type, call.name) == ("function_call", "get_weather")
    assert json.loads(call.arguments) == {"city": "xx", "days": 1}
    with client.responses.stream(**ask) as stream:
        streamed: Any = stream.get_final_response().output[0]
    assert streamed.arguments == call.arguments
    text: Any = {"format": {"type": "json_schema", "name": "s", "schema": _SCHEMA}}
    jsonschema.validate(json.loads(client.responses.create(model="m", input="x", text=text).output_text), _SCHEMA)


def test_moderations_flag_the_categories_that_are_named(client: openai.OpenAI) -> None:
    calm, wild = client.moderations.create(input=["a calm text", "so much Violence!"]).results
    assert not calm.flagged
    assert wild.flagged
    assert wild.categories.violence
    assert not wild.categories.hate
    assert wild.category_scores.violence > 0.5 > wild.category_scores.hate


def test_classify_and_nli_go_by_shared_words(http: httpx.Client) -> None:
    ask = {"model": "m", "input": ["a river rose", "a film"], "labels": ["river", "film"]}
    found = http.post("/v1/classify", json=ask).json()
    assert [row["label"] for row in found["data"]] == ["river", "film"]
    assert found["data"][0]["scores"] == {"river": 0.9, "film": 0.1}
    assert found["usage"] == {"prompt_tokens": 5, "total_tokens": 5}
    assert (
        http.post("/v1/classify", json={"model": "m", "input": "so negative"}).json()["data"][0]["label"] == "negative"
    )
    pairs = [{"premise": "a cat sleeps", "hypothesis": text} for text in ("a cat", "a dog", "no")]
    labels = [row["label"] for row in http.post("/v1/nli", json={"model": "m", "input": pairs}).json()["data"]]
    assert labels == ["entailment", "neutral", "contradiction"]


def test_rerank_orders_by_shared_words(http: httpx.Client) -> None:
    ask = {
        "model": "r",
        "query": "red apple",
        "documents": ["a green pear", {"text": "red apple pie"}, "red brick"],
        "top_n": 2,
    }
    plain = http.post("/v1/rerank", json=ask).json()
    assert [(one["index"], one["relevance_score"]) for one in plain["results"]] == [(1, 1.0), (2, 0.5)]
    assert plain["usage"]["total_tokens"] == 10
    full = http.post("/v1/rerank", json=ask | {"return_documents": True}).json()
    assert full["results"][0]["document"] == {"text": "red apple pie"}


def test_images(client: openai.OpenAI, http: httpx.Client) -> None:
    made = client.images.generate(model="i", prompt="a red dot", n=2)
    pictures = [base64.b64decode(item.b64_json or "") for item in made.data or []]
    assert len(set(pictures)) == 2
    for picture in pictures:
        with Image.open(io.BytesIO(picture)) as image:
            image.load()
            assert image.size == (1, 1)
    source = ("dot.png", pictures[0], "image/png")
    edited = client.images.edit(model="i", image=source, prompt="make it blue")
    again = client.images.edit(model="i", image=source, prompt="make it blue")  # the form's boundary differs
    assert edited == again
    varied = http.post("/v1/images/variations", data={"response_format": "url"}, files={"image": source}).json()
    assert varied["data"][0]["url"].startswith("https://mock.invalid/")
    unlike = http.post("/v1/images/edits", data={"prompt": "x"}, files={"mask": source})
    assert (unlike.status_code, unlike.json()["error"]["param"]) == (400, "image")


def test_audio(client: openai.OpenAI, http: httpx.Client) -> None:
    spoken = client.audio.speech.create(model="s", voice="alloy", input="one two", response_format="wav").read()
    with wave.open(io.BytesIO(spoken)) as audio:
        assert (audio.getframerate(), audio.getnframes()) == (24_000, 480)
    mp3 = client.audio.speech.create(model="s", voice="alloy", input="one two")
    assert mp3.response.headers["content-type"] == "audio/mpeg"
    upload = ("talk.wav", spoken, "audio/wav")
    heard = client.audio.transcriptions.create(model="w", file=upload)
    assert heard.text == f"Transcribe talk.wav, {len(spoken)} bytes."
    text = client.audio.transcriptions.create(model="w", file=upload, response_format="text")
    assert text == heard.text + "\n"
    verbose = client.audio.transcriptions.create(model="w", file=upload, response_format="verbose_json")
    assert verbose.duration == 1.0
    translated = http.post("/v1/audio/translations", data={"model": "w"}, files={"file": upload}).json()
    assert translated["text"] == f"Translate talk.wav, {len(spoken)} bytes."
    captions = http.post(
        "/v1/audio/translations", data={"model": "w", "response_format": "vtt"}, files={"file": upload}
    )
    assert captions.text.startswith("WEBVTT")


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["mock", "mock-embedding", "mock-image", "mock-audio"]
    assert client.models.retrieve("vendor/name:tag").id == "vendor/name:tag"


def test_health_and_provider_headers(http: httpx.Client) -> None:
    assert http.get("/health").json() == {"status": "ok"}
    headers = http.get("/v1/models").headers
    assert headers["x-mock-name"] == "mock"
    assert headers["x-request-id"].startswith("req_")
    assert {"openai-processing-ms", "openai-version", "x-ratelimit-limit-requests"} <= set(headers)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("chat/completions", {"messages": [{"role": "user", "content": "x"}]}, "model"),
        ("chat/completions", {"model": "m"}, "messages"),
        ("chat/completions", {"model": "m", "messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ("chat/completions", {"model": "m", "messages": [{"content": "x"}], "n": 0}, "n"),
        ("chat/completions", {"model": "m", "messages": [{"content": "x"}], "stop": [""]}, "stop"),
        ("chat/completions", {"model": "m", "messages": [{"content": "x"}], "stream": "yes"}, "stream"),
        ("chat/completions", {"model": "m", "messages": [{"content": "x"}], "stream_options": {}}, "stream_options"),
        ("chat/completions", {"model": "m", "messages": [{"content": "x"}], "tool_choice": "required"}, "tool_choice"),
        ("chat/completions", {"model": "m", "messages": [{"content": "x"}], "tools": [{}]}, "tools[0].function"),
        (
            "chat/completions",
            {"model": "m", "messages": [{"content": "x"}], "response_format": {"type": "xml"}},
            "response_format",
        ),
        ("completions", {"model": "m", "prompt": []}, "prompt"),
        ("embeddings", {"model": "m", "input": [1, "x"]}, "input"),
        ("embeddings", {"model": "m", "input": "x", "encoding_format": "hex"}, "encoding_format"),
        ("embeddings", {"model": "m", "input": "x", "dimensions": True}, "dimensions"),
        ("responses", {"model": "m", "input": []}, "input"),
        ("moderations", {"input": []}, "input"),
        ("rerank", {"model": "m", "query": "q", "documents": [1]}, "documents[0]"),
        ("classify", {"model": "m", "input": [1]}, "input"),
        ("classify", {"model": "m", "input": "a", "labels": []}, "labels"),
        ("nli", {"model": "m", "input": [{"premise": "a"}]}, "input[0]"),
        ("images/generations", {"n": 1}, "prompt"),
        ("audio/speech", {"model": "m", "voice": "v"}, "input"),
    ],
)
def test_a_bad_field_is_named(http: httpx.Client, path: str, body: dict[str, Any], param: str) -> None:
    answer = http.post(f"/v1/{path}", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert error.keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff"])
def test_bad_json_is_a_400(http: httpx.Client, body: bytes) -> None:
    answer = http.post("/v1/chat/completions", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_unknown_paths_and_methods(http: httpx.Client) -> None:
    unknown = http.post("/v1/nothing", json={})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "unknown_url")
    wrong = http.get("/v1/chat/completions")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_supported")


def test_bad_forms(http: httpx.Client) -> None:
    form = {"content-type": "multipart/form-data; boundary=b"}
    for body, headers in ((b"x", {}), (b"--b\r\n", form), (b"--b\r\n\r\nx\r\n--b--", form)):
        answer = http.post("/v1/audio/transcriptions", content=body, headers=headers)
        assert answer.status_code == 400, answer.text
