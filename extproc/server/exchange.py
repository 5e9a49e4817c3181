"""One exchange in Envoy's ext_proc protocol: each message that comes gets exactly one answer. Pure.

https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/http/http_filters/ext_proc_filter
Headers are not sent as messages, but for rules that may choose another model; what is needed of them comes as
attributes with the first message of a direction.
"""

import gzip
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias, TypeVar

import orjson
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

from extproc.json_splice import Document
from extproc.server.chain import Answered, Asked, Asking, Chain, Flow, Passage
from extproc.server.counters import Counters
from extproc.stages.protocol import Endpoint, Refusal, Reply, Request
from extproc.usage.entries import CACHE_HIT, CACHE_HITS, surface
from extproc.usage.identity import owner

T = TypeVar("T")

ATTRIBUTES = "envoy.filters.http.ext_proc"
ROUTE = "xds.route_name"
PATH = "request.path"
# What the client's path is before providers change it; set by the filter `attempt` of envoy/native.
CLIENT_PATH = "x-envoy-original-path"
STATUS = "response.code"
CLIENT_HEADER, MODEL_HEADER = "x-headgate-client", "x-headgate-model"
# Dynamic metadata: what routes put into headers (`ask`, `tell`), and what is logged.
NAMESPACE, ASK, TELL, LOG, ANSWER_LOG = "headgate.rules", "ask", "tell", "log", "answer_log"
# The namespace of what the answer's headers say.
ANSWER = "headgate.answer"
# The namespace in which a local reply says that its words are its own.
OWN, OWN_WORDS = "headgate", "own_words"
# Beside it: the tokens that a local reply tells of were used before, so that no limit counts them again.
_CACHED = {CACHE_HITS: 1}
DETAILS = "headgate_rule"

_REQUEST_UNCHANGED = ext_proc.ProcessingResponse(request_body={"response": {}})
_HEADERS_UNCHANGED = ext_proc.ProcessingResponse(request_headers={"response": {}})
_ANSWER_UNCHANGED = ext_proc.ProcessingResponse(response_body={"response": {}})
_MOST_HELD = 16 << 20  # bytes of an answer that was to be a stream, and is none


class ProtocolError(ValueError):
    """A message that no route of ours makes Envoy send."""


def attribute(header: str) -> str:
    """The attribute that tells a request header."""
    return f"request.headers['{header}']"


def answer_attribute(header: str) -> str:
    """The attribute that tells a header of the answer.

    Of headers that it does not send, Envoy tells the answer's none: a filter leaves these in dynamic metadata.
    """
    return f"metadata.filter_metadata['{ANSWER}']['{header}']"


_CLIENT, _MODEL, _REQUEST_TYPE = (attribute(name) for name in (CLIENT_HEADER, MODEL_HEADER, "content-type"))
ANSWER_HEADERS = ("content-type", "content-encoding")
_ANSWER_TYPE, _ANSWER_ENCODING = map(answer_attribute, ANSWER_HEADERS)
# What Envoy tells with the first message of each direction, beside the request headers that stages read.
REQUEST_ATTRIBUTES = (ROUTE, PATH, _CLIENT, _MODEL, _REQUEST_TYPE)
ANSWER_ATTRIBUTES = (ROUTE, PATH, attribute(CLIENT_PATH), STATUS, _ANSWER_TYPE, _ANSWER_ENCODING)


def route(message: ext_proc.ProcessingRequest) -> str:
    """The name of the route that an exchange takes, from its first message. Raises ProtocolError."""
    name: str = _attributes(message)[ROUTE].string_value
    if not name:
        raise ProtocolError("the first message does not tell its route")
    return name


class Pause(NamedTuple):
    """A message whose answer has to wait. `first`: to send meanwhile, so that Envoy waits longer.

    `go_on` takes the answer to the question, and gives what follows.
    """

    asking: Asking
    first: ext_proc.ProcessingResponse | None
    go_on: Callable[[object], "ext_proc.ProcessingResponse | Pause"]


class Exchange:
    """Give it every message in turn. `streamed`: Envoy sends the answer as it comes, its headers are gone by then.

    `over`: there is nothing left to say; Envoy lets the rest of the exchange pass when the call ends.
    """

    def __init__(self, chain: Chain, *, streamed: bool, counters: Counters, now: datetime) -> None:
        self._chain = chain
        self._streamed = streamed
        self.over = False
        self._counters = counters
        self._now = now
        self._passage: Passage | None = None
        self._said: Any = None  # the attributes that came with a request's headers
        self._answer: _Taker | None = None

    def respond(self, message: ext_proc.ProcessingRequest) -> ext_proc.ProcessingResponse | Pause:
        """Raises ProtocolError."""
        kind = message.WhichOneof("request")
        if kind == "request_body":
            return self._asked(message)
        if kind == "request_headers" and self._chain.chooses:
            self._said = _attributes(message)
            return _HEADERS_UNCHANGED
        if kind == "response_body":
            if self._answer is None:
                self._answer = self._begun(message)
            return self._answer(message.response_body.body, message.response_body.end_of_stream)
        raise ProtocolError(f"a message of kind {kind} was not asked for")

    def _asked(self, message: Any) -> ext_proc.ProcessingResponse | Pause:
        attributes = _attributes(message) if self._said is None else self._said
        passage = self._passage = self._chain.enter(self._request(attributes, message.request_body.body))
        multipart = attributes[_REQUEST_TYPE].string_value.lower().startswith("multipart/")
        steps = passage.unseen() if multipart else passage.ask()
        return self._going(steps, lambda asked: self._decided(passage, asked))

    def _going(
        self, steps: Generator[Asking, object, T], then: Callable[[T], ext_proc.ProcessingResponse], told: object = None
    ) -> ext_proc.ProcessingResponse | Pause:
        """Goes on until a question, or to what the steps come to."""
        try:
            asking = steps.send(told)
        except StopIteration as done:
            return then(done.value)
        patience = asking.question.patience_s
        first = ext_proc.ProcessingResponse() if patience else None
        if first is not None and patience is not None:
            first.override_message_timeout.FromMilliseconds(int(1000 * patience))
        return Pause(asking, first, lambda answer: self._going(steps, then, answer))

    def _decided(self, passage: Passage, asked: Asked) -> ext_proc.ProcessingResponse:
        self._counters.asked(asked, passage.failed)
        self.over = bool(asked.refusal or asked.reply) or not passage.waits
        if asked.refusal is not None:
            return _refused(asked.refusal, passage.request.endpoint, asked.metadata)
        if asked.reply is not None:
            return _replied(asked.reply, asked)
        if self._chain.chooses:
            return self._chosen(asked)
        if asked.body is None and not (asked.metadata or asked.headers or asked.answer_headers):
            return _REQUEST_UNCHANGED
        answer = ext_proc.ProcessingResponse(request_body={"response": {}})
        if asked.body is not None:
            answer.request_body.response.body_mutation.body = asked.body
        return _noting(answer, asked.metadata, asked.headers, asked.answer_headers)

    def _chosen(self, asked: Asked) -> ext_proc.ProcessingResponse:
        """Changes headers itself: those that the route of another model sets would be its own."""
        answer = ext_proc.ProcessingResponse(request_body={"response": {}})
        response = answer.request_body.response
        headers = dict(asked.headers)
        if asked.model is not None:
            headers[MODEL_HEADER] = asked.model
            response.clear_route_cache = True
            asked.body = self._named(asked.model, asked.body)
        if asked.body is not None:
            response.body_mutation.body = asked.body
            headers["content-length"] = str(len(asked.body))
        for name, value in headers.items():
            response.header_mutation.set_headers.add(header={"key": name, "raw_value": value.encode()})
        return _noting(answer, asked.metadata, tell=asked.answer_headers)

    def _named(self, model: str, body: bytes | None) -> bytes | None:
        """The body with the name that the model's provider knows it by."""
        if model not in self._chain.names or body is None:
            return body
        document = Document(body)
        document.set(("model",), self._chain.names[model])
        return document.render()

    def _begun(self, message: Any) -> "_Taker":
        """What is done with the answer's body, by what its headers say."""
        attributes = _attributes(message)
        if self._passage is None:
            self._passage = self._chain.enter(self._request(attributes, b"{}"))
            self._passage.skip()
        if attributes[STATUS].number_value >= 400:  # an error's words are the provider's
            return _passed
        encoding = attributes[_ANSWER_ENCODING].string_value
        if encoding not in ("", "identity"):
            return self._ended(_COMPRESSED, encoding) if self._passage.watched else _passed
        if attributes[_ANSWER_TYPE].string_value.startswith("text/event-stream"):
            flow = self._passage.stream()
            return _passed if flow is None else self._flowing(flow)
        return self._held(self._passage) if self._streamed else self._whole(self._passage)

    def _flowing(self, flow: Flow) -> "_Taker":
        def part(data: bytes, ends: bool) -> ext_proc.ProcessingResponse | Pause:
            self._counters.chunks += 1
            if not ends:
                return self._going(flow.feed(data), lambda out: _ANSWER_UNCHANGED if out == data else _with_answer(out))
            return self._going(_to_the_end(flow, data), lambda out: self._flowed(flow, out))

        return part

    def _flowed(self, flow: Flow, out: bytes) -> ext_proc.ProcessingResponse:
        self._counters.failures(flow.failed)
        self._counters.noted(flow.metadata())
        return _noting(_with_answer(out), flow.metadata(), key=ANSWER_LOG)

    def _whole(self, passage: Passage) -> "_Taker":
        def answered(made: Answered) -> ext_proc.ProcessingResponse:
            self._counters.answered(made, passage.failed)
            if made.refusal is not None:
                return _refused(made.refusal, passage.request.endpoint, made.metadata, ANSWER_LOG)
            changed = _ANSWER_UNCHANGED if made.body is None else _with_answer(made.body)
            return _noting(changed, made.metadata, key=ANSWER_LOG)

        return lambda data, _: self._going(passage.answer(data), answered)

    def _held(self, passage: Passage) -> "_Taker":
        """A stream was asked for, something else came: it is looked at as a whole all the same."""
        held = bytearray()

        def answered(made: Answered) -> ext_proc.ProcessingResponse:
            self._counters.answered(made, passage.failed)
            refused = made.refusal.body(passage.request.endpoint) if made.refusal is not None else None
            return _noting(_with_answer(refused or made.body or bytes(held)), made.metadata, key=ANSWER_LOG)

        def part(data: bytes, ends: bool) -> ext_proc.ProcessingResponse | Pause:
            held.extend(data)
            if len(held) > _MOST_HELD:
                self._answer = self._ended(_TOO_LONG) if passage.watched else _passed
                return self._answer(bytes(held), ends) if passage.watched else _with_answer(bytes(held))
            return self._going(passage.answer(bytes(held)), answered) if ends else _with_answer(b"")

        return part

    def _ended(self, refusal: Refusal, encoding: str = "") -> "_Taker":
        """An answer that nobody may see."""
        endpoint = self._passage.request.endpoint if self._passage else Endpoint.OTHER
        if not self._streamed:
            return lambda _, __: _refused(refusal, endpoint, {})
        # Its headers have said how it is compressed, and what is not would be no answer at all.
        event = refusal.event(endpoint)
        said = iter((event if not encoding else gzip.compress(event) if encoding == "gzip" else b"",))
        return lambda _, __: _with_answer(next(said, b""))

    def _request(self, attributes: Mapping[str, Any], body: bytes) -> Request:
        who = owner(attributes[_CLIENT].string_value)
        path = attributes[attribute(CLIENT_PATH)].string_value or attributes[PATH].string_value
        endpoint = Endpoint.of(path)
        if endpoint is Endpoint.OTHER:  # behind the router the path is the provider's
            endpoint = Endpoint.of(f"/v1/{surface(path)}")
        headers = {
            name: attributes[attribute(name)].string_value
            for name in self._chain.needs.headers
            if attribute(name) in attributes
        }
        client, model = attributes[_CLIENT].string_value, attributes[_MODEL].string_value
        return Request(endpoint, body, model, who.key, who.team, headers, self._now, client)


# Texts are UTF-8 in Envoy's messages; what a client sends as a header need not be.
_NOT_UTF8 = Refusal(400, "invalid_header", "A request header that rules read is not UTF-8. Send it as ASCII.")


# Takes the answer's body, part by part, and is told of the last one.
_Taker: TypeAlias = Callable[[bytes, bool], ext_proc.ProcessingResponse | Pause]


def _to_the_end(flow: Flow, data: bytes) -> Generator[Asking, object, bytes]:
    out = yield from flow.feed(data)
    return out + (yield from flow.end())


_COMPRESSED = Refusal(
    502, "upstream_error", "The provider's answer is compressed: rules cannot read it.", type="server_error"
)
_TOO_LONG = Refusal(
    502, "upstream_error", "The provider's answer is too long for the rules to read.", type="server_error"
)


def unreadable() -> ext_proc.ProcessingResponse:
    """The answer to a first message that does not parse."""
    return _refused(_NOT_UTF8, Endpoint.OTHER, {})


def _passed(_: bytes, __: bool) -> ext_proc.ProcessingResponse:
    return _ANSWER_UNCHANGED


def _with_answer(body: bytes) -> ext_proc.ProcessingResponse:
    answer = ext_proc.ProcessingResponse(response_body={"response": {}})
    # An empty body is one, too.
    answer.response_body.response.body_mutation.body = body
    return answer


def _refused(
    refusal: Refusal, endpoint: Endpoint, metadata: Mapping[str, Any], key: str = LOG
) -> ext_proc.ProcessingResponse:
    reply = Reply(refusal.status, "application/json", refusal.body(endpoint))
    return _immediate(reply, metadata, key)


def _replied(reply: Reply, asked: Asked) -> ext_proc.ProcessingResponse:
    return _immediate(replace(reply, headers={**asked.answer_headers, **reply.headers}), asked.metadata)


def _immediate(reply: Reply, metadata: Mapping[str, Any], key: str = LOG) -> ext_proc.ProcessingResponse:
    answer = ext_proc.ProcessingResponse()
    immediate = answer.immediate_response
    immediate.status.code = reply.status
    immediate.body = reply.body
    immediate.details = CACHE_HIT if reply.cached else DETAILS
    for name, value in (("content-type", reply.content_type), *reply.headers.items()):
        immediate.headers.set_headers.add(header={"key": name, "raw_value": value.encode()})
    answer.dynamic_metadata.update({OWN: {OWN_WORDS: True, **(_CACHED if reply.cached else {})}})
    return _noting(answer, metadata, key=key)


def _noting(
    answer: ext_proc.ProcessingResponse,
    log: Mapping[str, Any],
    ask: Mapping[str, str] = MappingProxyType({}),
    tell: Mapping[str, str] = MappingProxyType({}),
    key: str = LOG,
) -> ext_proc.ProcessingResponse:
    """The answer with metadata beside it; the log's as one JSON text. `key`: Envoy keeps the last of each."""
    said: dict[str, Any] = {}
    if log:
        said[key] = orjson.dumps(log).decode()
    if ask:
        said[ASK] = dict(ask)
    if tell:
        said[TELL] = dict(tell)
    if not said:
        return answer
    made = ext_proc.ProcessingResponse()
    made.CopyFrom(answer)  # the unchanged answers are shared
    made.dynamic_metadata.update({NAMESPACE: said})
    return made


def _attributes(message: Any) -> Any:
    """A Struct's fields: a map that gives an empty value for a name that it does not have."""
    return message.attributes[ATTRIBUTES].fields
