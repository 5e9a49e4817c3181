"""Text generation over HTTP, as the official client uses it."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.support.onnx_service import OnnxService
from tests.support.tiny_decoder import Decoder, make_decoder

END = "6"  # the token that ends a message
LONG = {"max_tokens": 2000, "n": 20}  # more work than anybody here waits for


@pytest.fixture(scope="module")
def service(
    decoder: Path, tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OnnxService]:
    folders = tmp_path_factory.mktemp("decoders")
    plain = make_decoder(folders / "plain", Decoder(template=None, context=64))
    drawn = make_decoder(folders / "drawn", Decoder(search={"do_sample": True, "top_k": 1, "temperature": 0.5}))
    models: dict[str, dict[str, Any]] = {
        "tiny": {"path": str(decoder), "preload": True},
        "plain": {"path": str(plain)},
        "drawn": {"path": str(drawn)},
        "single": {"path": str(decoder), "generations": 1},
        "narrow": {"path": str(decoder), "generations": 1, "queue_tokens": 1000},
        "short": {"path": str(decoder), "max_output_tokens": 7},
        "embedder": {"path": str(tiny("mean"))},
    }
    with OnnxService({"models": models, "max_inputs": 64}) as running:
        yield running


@pytest.fixture
def client(service: OnnxService) -> Iterator[openai.OpenAI]:
    with service.openai() as made:
        yield made


def say(client: openai.OpenAI, text: str = "the dog", model: str = "tiny", **more: Any) -> Any:
    more = {"temperature": 0, "max_tokens": 10, **more}
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **more)


def metric(service: OnnxService, name: str, model: str = "tiny") -> float:
    lines = service.http.get("/metrics").text.splitlines()
    wanted = f'headgate_onnx_{name}{{model="{model}"'
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(wanted))


def test_chats_are_those_of_transformers(client: openai.OpenAI, expected_text: dict[str, Any]) -> None:
    for one in expected_text["chats"]:
        answer = client.chat.completions.create(
            model="tiny", messages=one["messages"], temperature=0, max_completion_tokens=len(one["tokens"])
        )
        assert answer.choices[0].message.content == one["text"]
        assert answer.choices[0].finish_reason == "length"
        usage = answer.usage
        assert usage is not None
        assert (usage.prompt_tokens, usage.completion_tokens) == (one["prompt_tokens"], len(one["tokens"]))
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_a_stream_is_the_same_in_parts(client: openai.OpenAI, expected_text: dict[str, Any]) -> None:
    one = expected_text["chats"][1]
    chunks = list(
        client.chat.completions.create(
            model="tiny", messages=one["messages"], temperature=0, max_tokens=len(one["tokens"]), stream=True,
            stream_options={"include_usage": True}, logprobs=True,
        )
    )  # fmt: skip
    *body, last = chunks
    assert len({chunk.id for chunk in chunks}) == 1
    assert body[0].choices[0].delta.role == "assistant"
    assert len(body) > 20
    assert "".join(chunk.choices[0].delta.content or "" for chunk in body) == one["text"]
    assert [chunk.choices[0].finish_reason for chunk in body] == [None] * (len(body) - 1) + ["length"]
    scored = [token for chunk in body if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content or []]
    assert [token.logprob for token in scored] == pytest.approx(one["logprobs"], abs=1e-4)
    assert all(chunk.usage is None for chunk in body)
    assert (last.choices, last.usage.completion_tokens) == ([], len(one["tokens"]))


def test_completions_take_texts_and_tokens(client: openai.OpenAI, expected_text: dict[str, Any]) -> None:
    prompts = expected_text["prompts"]
    answer = client.completions.create(
        model="tiny", prompt=[one["prompt"] for one in prompts], temperature=0, max_tokens=48
    )
    assert [choice.text for choice in answer.choices] == [one["text"] for one in prompts]
    assert answer.usage.prompt_tokens == sum(one["prompt_tokens"] for one in prompts)
    assert answer.usage.completion_tokens == 48 * len(prompts)
    chat = expected_text["chats"][0]
    by_ids = client.completions.create(
        model="tiny", prompt=[0, 2, 268, 227, 277, 77, 6, 3], temperature=0, max_tokens=48, logprobs=2
    )
    (choice,) = by_ids.choices
    assert choice.text == chat["text"]
    assert choice.logprobs.token_logprobs == pytest.approx(chat["logprobs"], abs=1e-4)
    assert all(len(top) == 2 for top in choice.logprobs.top_logprobs[:2])
    assert choice.logprobs.text_offset[:4] == [0, 1, 2, 3]
    stream = client.completions.create(model="tiny", prompt="the river", temperature=0, max_tokens=48, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == prompts[0]["text"]


def test_logprobs_name_tokens_and_their_bytes(client: openai.OpenAI, expected_text: dict[str, Any]) -> None:
    one = expected_text["chats"][0]
    choice = say(client, logprobs=True, top_logprobs=3).choices[0]
    content = choice.logprobs.content
    assert [token.logprob for token in content] == pytest.approx(one["logprobs"][:10], abs=1e-4)
    assert b"".join(bytes(token.bytes) for token in content).decode(errors="replace") == choice.message.content
    assert all(token.top_logprobs[0].token == token.token and len(token.top_logprobs) == 3 for token in content)
    assert say(client).choices[0].logprobs is None


def test_parts_of_characters_are_tokens_of_their_own(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt="the river", temperature=0, max_tokens=48, logprobs=20)
    found = answer.choices[0].logprobs
    assert any(token.startswith(r"bytes:\x") for token in found.tokens)
    for token, logprob, top in zip(found.tokens, found.token_logprobs, found.top_logprobs, strict=True):
        assert len(top) == 20
        assert top[token] == logprob == max(top.values())


def test_null_says_nothing(client: openai.OpenAI) -> None:
    names = ("tools", "tool_choice", "presence_penalty", "stream", "n", "logprobs", "stop", "response_format", "user")
    assert say(client, extra_body=dict.fromkeys(names)).choices == say(client).choices


def test_a_stop_ends_the_answer_and_never_shows(client: openai.OpenAI, expected_text: dict[str, Any]) -> None:
    text = expected_text["chats"][0]["text"]
    stop = text[4:8]  # of three tokens
    answer = say(client, max_tokens=48, stop=["never there", stop])
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (text[:4], "stop")
    chunks = list(say(client, max_tokens=48, stop=stop, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text[:4]
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_token_that_ends_is_counted_and_not_shown(client: openai.OpenAI) -> None:
    answer = say(client, logit_bias={END: 100})
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("", "stop")
    assert answer.usage.completion_tokens == 1
    chunks = list(say(client, logit_bias={END: 100}, stream=True))
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, "stop"]


def test_a_seed_makes_an_answer_again(client: openai.OpenAI) -> None:
    def texts(seed: int | None) -> list[str]:
        more: dict[str, Any] = {} if seed is None else {"seed": seed}
        return [choice.message.content for choice in say(client, temperature=1, n=3, max_tokens=20, **more).choices]

    first = texts(7)
    assert texts(7) == first
    assert len({*first, *texts(8), *texts(None), *texts(None)}) == 12


def test_a_seed_makes_the_same_answer_whatever_else_is_in_work(client: openai.OpenAI) -> None:
    def text(seed: int) -> str:
        found: str = say(client, temperature=1, seed=seed, max_tokens=40).choices[0].message.content
        return found

    alone = [text(seed) for seed in range(6)]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(text, range(6))) == alone


def test_several_answers_in_one_stream(client: openai.OpenAI) -> None:
    whole = say(client, temperature=1, seed=1, n=3)
    parts = ["", "", ""]
    for chunk in say(client, temperature=1, seed=1, n=3, stream=True):
        (choice,) = chunk.choices
        parts[choice.index] += choice.delta.content or ""
    assert parts == [choice.message.content for choice in whole.choices]
    assert whole.usage.completion_tokens <= 30
    assert whole.usage.prompt_tokens == 8


def test_without_word_of_the_request_the_folder_says_how(client: openai.OpenAI, expected_text: dict[str, Any]) -> None:
    text = expected_text["chats"][0]["text"]
    body = {"messages": [{"role": "user", "content": "the dog"}], "max_tokens": 48}
    assert client.chat.completions.create(model="drawn", **body).choices[0].message.content == text
    assert client.chat.completions.create(model="tiny", **body).choices[0].message.content != text


def test_json_is_json(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "boolean"}}, "required": ["name"],
              "additionalProperties": False}  # fmt: skip
    shape = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema, "strict": True}}
    answer = say(client, max_tokens=500, response_format=shape, presence_penalty=1)
    assert isinstance(json.loads(answer.choices[0].message.content)["name"], bool)
    assert answer.choices[0].finish_reason == "stop"
    assert say(client, response_format={"type": "json_object"}).choices[0].message.content.startswith("{")
    free = say(client, response_format={"type": "text"}).choices[0].message.content
    assert free == say(client).choices[0].message.content


def test_contents_in_parts_and_what_tools_said(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": "the"}, {"type": "text", "text": "dog"}]
    one = client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": parts}], max_tokens=1)
    assert one.usage.prompt_tokens == say(client, "the\ndog").usage.prompt_tokens
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
    messages = [
        {"role": "developer", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "c", "tool_call_id": "1"},
    ]
    assert client.chat.completions.create(model="tiny", messages=messages, max_tokens=1).choices


def test_an_answer_can_be_sent_back(client: openai.OpenAI) -> None:
    ask = {"role": "user", "content": "the dog"}
    message = say(client).choices[0].message
    again = client.chat.completions.create(model="tiny", messages=[ask, message, ask], max_tokens=1)
    whole = client.chat.completions.create(model="tiny", messages=[ask, message.model_dump(), ask], max_tokens=1)
    assert again.usage.prompt_tokens == whole.usage.prompt_tokens > 20


def test_an_answer_is_as_long_as_the_model_allows(client: openai.OpenAI) -> None:
    assert client.completions.create(model="plain", prompt=[5] * 60, seed=1).usage.completion_tokens <= 4
    bias = {END: -100, "1": -100}
    answer = client.completions.create(model="plain", prompt=[5] * 60, logit_bias=bias)
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (4, "length")
    assert client.completions.create(model="short", prompt="a", logit_bias=bias).usage.completion_tokens == 7


TOO_LONG = "has a context of 64 tokens; this request has 60 in the prompt and asks for 5 in the answer"
USER = [{"role": "user", "content": "a"}]
WRONG: list[tuple[str, dict[str, Any], str, str | None, str]] = [
    ("completions", {"model": "plain", "prompt": [5] * 60, "max_tokens": 5}, "context_length_exceeded", "prompt",
     TOO_LONG),
    ("completions", {"prompt": [5] * 100_000}, "context_length_exceeded", "prompt", "this request has 100000"),
    ("completions", {"model": "plain", "prompt": [5] * 64}, "context_length_exceeded", "prompt", "at least 1"),
    ("chat/completions", {"messages": [{"role": "user", "content": "a " * 3000}]}, "context_length_exceeded",
     "messages", "has a context of 2048 tokens; this request has 6"),
    ("completions", {"model": "short", "prompt": "a", "max_tokens": 8}, "invalid_request", "max_tokens", "7 at most"),
    ("completions", {"prompt": ""}, "invalid_request", "prompt", "no tokens"),
    ("completions", {"prompt": []}, "invalid_request", "prompt", "expected a string"),
    ("completions", {"prompt": [300]}, "invalid_request", "prompt", "from 0 to 299"),
    ("completions", {"prompt": ["a"] * 33, "n": 2}, "invalid_request", "n", "at most 64"),
    ("completions", {"prompt": "a", "echo": True}, "unsupported_parameter", "echo", "not served"),
    ("completions", {"prompt": "a", "logprobs": 21}, "invalid_request", "logprobs", "20"),
    ("completions", {"prompt": "a", "temperature": 2.5}, "invalid_request", "temperature", "2"),
    ("completions", {"prompt": "a", "top_p": 1.1}, "invalid_request", "top_p", "1"),
    ("completions", {"prompt": "a", "presence_penalty": 3}, "invalid_request", "presence_penalty", "2"),
    ("completions", {"prompt": "a", "stop": [""]}, "invalid_request", "stop[0]", "at least 1"),
    ("completions", {"prompt": "a", "logit_bias": {"300": 1}}, "invalid_request", "logit_bias", "'300' is no token"),
    ("completions", {"prompt": "a", "stream_options": {}}, "invalid_request", "stream_options", "only with 'stream'"),
    ("completions", {"model": "embedder", "prompt": "a"}, "operation_not_supported", "model", "/v1/embeddings"),
    ("chat/completions", {"model": "plain", "messages": USER}, "operation_not_supported", "model", "no chat template"),
    ("completions", {"prompt": "a", "logit_bias": {"9" * 5000: 1}}, "invalid_request", "logit_bias", "is no token id"),
    ("completions", {"prompt": "a", "stop": ["a"] * 17}, "invalid_request", "stop", "an array of 16 at most"),
    ("chat/completions", {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "invalid_request",
     "messages[0].content[0].text", "Missing"),
    ("chat/completions", {"messages": []}, "invalid_request", "messages", "at least 1"),
    ("chat/completions", {"messages": [{"role": "user"}]}, "invalid_request", "messages[0].content", "Missing"),
    ("chat/completions", {"messages": [{"role": "x", "content": "a"}]}, "invalid_request", "messages[0].role",
     "'tool'"),
    ("chat/completions", {"messages": USER, "tools": []}, "unsupported_parameter", "tools", "not served"),
    ("chat/completions", {"messages": USER, "functions": []}, "unsupported_parameter", "functions", "not served"),
    ("chat/completions", {"messages": USER, "tempreature": 1}, "invalid_request", "tempreature", "Unknown parameter"),
    ("chat/completions", {"messages": USER, "top_logprobs": 1}, "invalid_request", "top_logprobs", "only with"),
    ("chat/completions", {"messages": USER, "max_tokens": 1, "max_completion_tokens": 1}, "invalid_request",
     "max_tokens", "not together"),
    ("chat/completions", {"messages": USER, "response_format": {"type": "json_schema"}}, "invalid_request",
     "response_format.json_schema.schema", "Missing"),
    ("chat/completions", {"messages": USER, "response_format": {"type": "json_schema", "json_schema": {
        "name": "a", "schema": {"type": "bogus"}}}}, "invalid_request", "response_format", "Invalid type: bogus"),
    ("chat/completions", {"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "data:"}}]}]}, "unsupported_content", "messages[0].content[0]",
     "'image_url'; models here take text only"),
    ("embeddings", {"input": "a"}, "operation_not_supported", "model", "/v1/chat/completions"),
]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body", "code", "param", "says"), WRONG)
def test_wrong_requests_are_told(
    service: OnnxService, path: str, body: dict[str, Any], code: str, param: str | None, says: str, stream: bool
) -> None:
    if stream and (path == "embeddings" or "stream_options" in body):
        return
    answer = service.post(f"/v1/{path}", {"model": "tiny", **body, **({"stream": True} if stream else {})})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)
    assert says in error["message"]


def test_a_client_that_leaves_ends_its_generation(service: OnnxService, client: openai.OpenAI) -> None:
    with say(client, stream=True, **LONG) as stream:
        next(iter(stream))
    service.wait_for(lambda: metric(service, "open_requests") == 0)
    before = metric(service, "generated_tokens_total")
    assert before < 2000 * 20
    say(client, max_tokens=5)  # another is served at once, and nothing was done meanwhile but to end a step
    assert 5 <= metric(service, "generated_tokens_total") - before <= 6
    assert metric(service, "waiting_tokens") == 0


def test_a_client_that_does_not_wait_ends_its_generation_too(service: OnnxService, client: openai.OpenAI) -> None:
    with pytest.raises(openai.APITimeoutError):
        say(client, timeout=0.5, **LONG)
    service.wait_for(lambda: metric(service, "open_requests") == 0)
    assert metric(service, "waiting_tokens") == 0
    assert 'operation="chat",status="499"} 1.0' in service.http.get("/metrics").text


def test_short_answers_are_served_beside_long_ones(service: OnnxService, client: openai.OpenAI) -> None:
    with say(client, stream=True, max_tokens=2000, n=4) as stream:
        next(iter(stream))
        assert say(client, max_tokens=5).usage.completion_tokens == 5
        assert client.embeddings.create(model="embedder", input="a cat").data
        assert metric(service, "open_requests") == 1


def test_a_queue_that_is_full_says_when_to_come_back(service: OnnxService, client: openai.OpenAI) -> None:
    with say(client, model="narrow", stream=True, **LONG) as stream:
        next(iter(stream))
        body = {"model": "narrow", "messages": USER, "max_tokens": 500}
        for more in ({}, {"stream": True}):
            refused = service.post("/v1/chat/completions", {**body, **more})
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
            assert int(refused.headers["retry-after"]) >= 1
    service.wait_for(lambda: metric(service, "open_requests", "narrow") == 0)
    assert say(client, model="narrow").choices


def test_the_urgent_overtake_those_who_wait(service: OnnxService, client: openai.OpenAI) -> None:
    order: list[str] = []

    def ask(priority: str, tokens: int) -> None:
        more = {"max_tokens": tokens, "logit_bias": {END: -100, "1": -100}}
        say(client, model="single", extra_headers={"x-headgate-priority": priority}, **more)
        order.append(priority)

    with ThreadPoolExecutor(2) as pool, say(client, model="single", stream=True, **LONG) as stream:
        next(iter(stream))
        for count, (priority, tokens) in enumerate((("low", 500), ("high", 5)), start=LONG["n"]):
            pool.submit(ask, priority, tokens)
            service.wait_for(lambda count=count: metric(service, "waiting_sequences", "single") == count)
    assert order == ["high", "low"]


def test_unloading_lets_an_answer_end(service: OnnxService, client: openai.OpenAI) -> None:
    states: list[str] = []
    with say(client, model="drawn", stream=True, max_tokens=1500, logit_bias={END: -100, "1": -100}) as stream:
        chunks = iter(stream)
        next(chunks)
        unload = threading.Thread(
            target=lambda: states.append(service.post("/models/drawn/unload", None).json()["state"])
        )
        unload.start()
        rest = list(chunks)
        assert rest[-1].choices[0].finish_reason == "length"
    unload.join()
    assert states == ["available"]
    assert say(client, model="drawn").choices


def test_told_to_stop_it_ends_what_it_can(decoder: Path) -> None:
    # Five leave places for another, and do not end by themselves in a second.
    few = {"max_tokens": 2000, "n": 5, "logit_bias": {END: -100, "1": -100}}
    with OnnxService({"models": {"tiny": {"path": str(decoder)}}, "drain_s": 1}) as service, service.openai() as client:
        with say(client, stream=True, **few) as long, say(client, stream=True, max_tokens=10) as short:
            next(iter(long))
            chunks = iter(short)
            next(chunks)
            service.terminate()
            assert list(chunks)[-1].choices[0].finish_reason is not None
            with pytest.raises((openai.APIError, httpx.HTTPError)):
                list(long)
        assert service.wait() == 0
        assert service.log()[-1]["event"] == "onnx: stopped"


def test_models_tell_what_they_are(service: OnnxService) -> None:
    service.post("/models/plain/load", None)
    described = {one["model"]: one for one in service.http.get("/models").json()["models"]}
    one = described["plain"]
    assert (one["task"], one["max_tokens"], one["max_output_tokens"], one["chat"]) == ("generate", 64, 64, False)
    assert described["tiny"]["chat"]


def test_metrics_count(service: OnnxService, client: openai.OpenAI) -> None:
    names = ("generated_tokens_total", "tokens_total", "first_token_seconds_count", "run_seconds_count")
    before = [metric(service, name) for name in names]
    usage = say(client, max_tokens=6).usage
    # What was generated last is not fed again.
    grown = [metric(service, name) - old for name, old in zip(names, before, strict=True)]
    assert grown == [6, usage.prompt_tokens + 5, 1, 6]
    asked = 'requests_total{model="tiny",operation="chat",status="200"}'
    assert f"headgate_onnx_{asked}" in service.http.get("/metrics").text
