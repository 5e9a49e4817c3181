"""One attempt at a provider in Envoy's ext_proc protocol: its request translated, and its answer back. Pure.

The messages: the request's whole body, the answer's headers, and the answer's body, whole or as it comes; each gets
exactly one answer. How to translate comes along with the exchange (extproc/translate/settings.py), the client's path
and the request's id as attributes.
https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/http/http_filters/ext_proc_filter
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2 as modes
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

from extproc import translate
from extproc.server.counters import Counters
from extproc.server.exchange import ATTRIBUTES, OWN, OWN_WORDS, PATH, ProtocolError, attribute
from extproc.stages.parameters import WARNING
from extproc.translate import jsontext
from extproc.translate.settings import Translation

# Of the exchange itself: how to translate.
TRANSLATION = "x-headgate-translation"
# What the client's path is before providers change it; set by the filter `attempt` of envoy/native.
CLIENT_PATH = "x-headgate-path"
# On requests and answers, and before each part of an answer's body: it is translated. The filters around this service
# (envoy/native/translated.zig, attempt.zig) take the marks away, and let nothing pass that has none.
MARK, MARKED, PART = "x-headgate-translated", "1", b"\x1e"
DROPPED = "x-headgate-dropped"
DETAILS = "headgate_translation"
REQUEST_ATTRIBUTES = (PATH, attribute(CLIENT_PATH), attribute("x-request-id"))

_SKIP, _SEND = modes.ProcessingMode.HeaderSendMode.SKIP, modes.ProcessingMode.HeaderSendMode.SEND
_AS_IT_COMES = modes.ProcessingMode(
    request_header_mode=_SKIP,
    request_body_mode=modes.ProcessingMode.BodySendMode.BUFFERED,
    request_trailer_mode=_SKIP,
    response_header_mode=_SEND,
    response_body_mode=modes.ProcessingMode.BodySendMode.STREAMED,
    response_trailer_mode=_SKIP,
)
_CLIENT_APIS: Mapping[str, translate.ClientAPI] = {
    "/v1/chat/completions": "openai",
    "/v1/embeddings": "openai_embeddings",
    "/v1/messages": "anthropic",
}
# Headers of the provider's answer that are not true of the translated one.
_UNTRUE = ("content-length", "content-encoding", "transfer-encoding", "etag")


class Translating:
    """Give it every message in turn."""

    def __init__(self, translation: Translation, *, counters: Counters, now: datetime) -> None:
        self._translation = translation
        self._counters = counters
        self._now = now
        self._sent: translate.Upstream | None = None
        self._status = 0
        self._headers: dict[str, str] = {}
        self._stream: translate.Stream | None = None

    def respond(self, message: ext_proc.ProcessingRequest) -> ext_proc.ProcessingResponse:
        """Raises ProtocolError."""
        kind = message.WhichOneof("request")
        if kind == "request_body" and self._sent is None:
            return self._asked(message)
        if kind == "response_headers" and self._sent is not None:
            return self._begun(self._sent, message.response_headers)
        if kind == "response_body" and self._sent is not None and self._status:
            body = message.response_body
            return self._whole(self._sent, body.body) if self._stream is None else self._part(self._stream, body)
        raise ProtocolError(f"a message of kind {kind} was not asked for")

    def _asked(self, message: ext_proc.ProcessingRequest) -> ext_proc.ProcessingResponse:
        attributes = message.attributes[ATTRIBUTES].fields
        path = attributes[attribute(CLIENT_PATH)].string_value or attributes[PATH].string_value
        client = _CLIENT_APIS.get(path.partition("?")[0])
        if client is None:
            raise ProtocolError(f"{path[:100]!r} is no path of requests that are translated")
        prefix = "msg_" if client == "anthropic" else "chatcmpl-"
        request_id = attributes[attribute("x-request-id")].string_value
        stamp = translate.Stamp(prefix + request_id.replace("-", ""), int(self._now.timestamp()))
        body = message.request_body.body
        made = translate.request(
            client, self._translation.provider, body, _model(body), stamp, self._translation.options
        )
        if isinstance(made, translate.Refused):
            self._counters.untranslatable += 1
            return _immediate(translate.refusal(made, client))
        self._counters.translated += 1
        self._sent = made
        return _request(made)

    def _begun(self, sent: translate.Upstream, message: Any) -> ext_proc.ProcessingResponse:
        headers = {header.key: header.raw_value.decode("latin-1") for header in message.headers.headers}
        self._status, self._headers = int(headers.pop(":status", "0")), headers
        if message.end_of_stream:
            return self._empty(sent)
        answer = ext_proc.ProcessingResponse(response_headers={"response": {}})
        common = answer.response_headers.response
        _set(common, {MARK: MARKED})
        if sent.exchange.streams(self._status, headers):
            told, self._stream = sent.exchange.stream()
            _set(common, _told(sent) | told)
            common.header_mutation.remove_headers.extend(_UNTRUE)
            answer.mode_override.CopyFrom(_AS_IT_COMES)
        return answer

    def _empty(self, sent: translate.Upstream) -> ext_proc.ProcessingResponse:
        """An answer without a body gets one."""
        made = sent.exchange.whole(self._status, self._headers, b"")
        answer = ext_proc.ProcessingResponse(response_headers={"response": {}})
        common = answer.response_headers.response
        common.status = ext_proc.CommonResponse.ResponseStatus.CONTINUE_AND_REPLACE
        _replace(common, made, _told(sent))
        return answer

    def _whole(self, sent: translate.Upstream, body: bytes) -> ext_proc.ProcessingResponse:
        made = sent.exchange.whole(self._status, self._headers, body)
        answer = ext_proc.ProcessingResponse(response_body={"response": {}})
        _replace(answer.response_body.response, made, _told(sent))
        return answer

    def _part(self, stream: translate.Stream, body: Any) -> ext_proc.ProcessingResponse:
        self._counters.chunks += 1
        out = stream.feed(body.body)
        if body.end_of_stream:
            out += stream.end()
        answer = ext_proc.ProcessingResponse(response_body={"response": {}})
        answer.response_body.response.body_mutation.body = PART + out if out else b""  # an empty one is one, too
        return answer


def _model(body: bytes) -> str:
    """The name in the body, which is the provider's by now; "" where translation will say what is wrong."""
    try:
        parsed = jsontext.loads(body)
    except jsontext.JSONTextError:
        return ""
    model = parsed.get("model") if isinstance(parsed, dict) else None
    return model if isinstance(model, str) else ""


def _request(made: translate.Upstream) -> ext_proc.ProcessingResponse:
    answer = ext_proc.ProcessingResponse(request_body={"response": {}})
    common = answer.request_body.response
    length = {"content-length": str(len(made.body))}
    _set(common, {":path": made.path, MARK: MARKED} | made.headers | length)
    common.body_mutation.body = made.body
    return answer


def _told(sent: translate.Upstream) -> dict[str, str]:
    """What of the request did not arrive as it was written."""
    said = {DROPPED: ", ".join(sent.dropped), WARNING: "; ".join(sent.warnings)}
    return {name: text for name, text in said.items() if text}


def _replace(common: Any, made: translate.Answer, told: Mapping[str, str]) -> None:
    common.header_mutation.remove_headers.extend(_UNTRUE)
    _set(common, {**told, **made.headers, MARK: MARKED, ":status": str(made.status)})
    common.body_mutation.body = PART + made.body


def _set(common: Any, headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        common.header_mutation.set_headers.add(
            header={"key": name, "raw_value": value.encode()},
            append_action="OVERWRITE_IF_EXISTS_OR_ADD",
        )


def _immediate(refusal: translate.Answer) -> ext_proc.ProcessingResponse:
    answer = ext_proc.ProcessingResponse()
    immediate = answer.immediate_response
    immediate.status.code = refusal.status
    immediate.body = refusal.body
    immediate.details = DETAILS
    for name, value in refusal.headers.items():
        immediate.headers.set_headers.add(header={"key": name, "raw_value": value.encode()})
    answer.dynamic_metadata.update({OWN: {OWN_WORDS: True}})
    return answer
