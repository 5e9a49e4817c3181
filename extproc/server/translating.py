"""One attempt at a provider in Envoy's ext_proc protocol: its request translated, and its answer back. Pure.

The messages: the request's whole body, then the answer's body as it comes; each gets exactly one answer. How to
translate comes along with the exchange (extproc/translate/settings.py), the client's path as an attribute. Envoy takes
no headers with a body, and an attempt's answer has no attributes: so headers are written in front of bodies, a line of
`name:value` each, between this service and the filters around it (envoy/native/translated.zig).
https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/http/http_filters/ext_proc_filter
"""

from collections.abc import Callable, Mapping
from datetime import datetime

from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

from extproc import translate
from extproc.server.counters import Counters
from extproc.server.exchange import ATTRIBUTES, CLIENT_PATH, OWN, OWN_WORDS, PATH, ProtocolError, attribute
from extproc.stages.parameters import WARNING
from extproc.translate import jsontext
from extproc.translate.settings import Translation

# Of the exchange itself: how to translate.
TRANSLATION = "x-headgate-translation"
DROPPED = "x-headgate-dropped"
DETAILS = "headgate_translation"
REQUEST_ATTRIBUTES = (PATH, attribute(CLIENT_PATH), attribute("x-request-id"))
MOST_HELD = 32 << 20  # bytes of an answer that is translated as a whole

# Headers of the provider's answer that are not true of the translated one.
_UNTRUE = dict.fromkeys(("content-length", "content-encoding", "etag"), "")
_BEGIN = b"\x1e"


class Translating:
    """Give it every message in turn."""

    def __init__(self, translation: Translation, *, counters: Counters, now: datetime) -> None:
        self._translation = translation
        self._counters = counters
        self._now = now
        self._sent: translate.Upstream | None = None
        self._answer: Callable[[bytes, bool], bytes] | None = None

    @property
    def over(self) -> bool:
        """Whether there is nothing left to say."""
        return False

    def respond(self, message: ext_proc.ProcessingRequest) -> ext_proc.ProcessingResponse:
        """Raises ProtocolError."""
        kind = message.WhichOneof("request")
        if kind == "request_body" and self._sent is None:
            return self._asked(message)
        if kind == "response_body" and self._sent is not None:
            data = message.response_body.body
            if self._answer is None:
                headers, data = _taken(data)
                self._answer = self._begun(self._sent, headers)
            answer = ext_proc.ProcessingResponse(response_body={"response": {}})
            part = self._answer(data, message.response_body.end_of_stream)
            answer.response_body.response.body_mutation.body = part  # an empty one is one, too
            return answer
        raise ProtocolError(f"a message of kind {kind} was not asked for")

    def _asked(self, message: ext_proc.ProcessingRequest) -> ext_proc.ProcessingResponse:
        attributes = message.attributes[ATTRIBUTES].fields
        path = attributes[attribute(CLIENT_PATH)].string_value or attributes[PATH].string_value
        client = translate.CLIENT_APIS.get(path.partition("?")[0])
        if client is None:
            raise ProtocolError(f"{path[:100]!r} is no path of requests that are translated")
        prefix = "msg_" if client == "anthropic" else "chatcmpl-"
        request_id = attributes[attribute("x-request-id")].string_value
        stamp = translate.Stamp(prefix + request_id.replace("-", ""), int(self._now.timestamp()))
        body, how = message.request_body.body, self._translation
        made = translate.request(client, how.provider, body, _model(body), stamp, how.options)
        if isinstance(made, translate.Refused):
            self._counters.untranslatable += 1
            return _immediate(translate.refusal(made, client))
        self._counters.translated += 1
        self._sent = made
        answer = ext_proc.ProcessingResponse(request_body={"response": {}})
        answer.request_body.response.body_mutation.body = _head({":path": made.path, **made.headers}) + made.body
        return answer

    def _begun(self, sent: translate.Upstream, headers: Mapping[str, str]) -> Callable[[bytes, bool], bytes]:
        """What is done with the parts of the answer, by what its headers say."""
        status = int(headers[":status"])
        if sent.exchange.streams(status, headers):
            told, stream = sent.exchange.stream()
            return self._flowing(stream, _head({**_UNTRUE, **_told(sent), **told}))
        return self._held(sent, status, headers)

    def _flowing(self, stream: translate.Stream, head: bytes) -> Callable[[bytes, bool], bytes]:
        waiting = [head]  # until there is something to send: Envoy passes on no empty part

        def part(data: bytes, ends: bool) -> bytes:
            self._counters.chunks += 1
            out = stream.feed(data)
            if ends:
                out += stream.end()
            return waiting.pop() + out if out and waiting else out

        return part

    def _held(
        self, sent: translate.Upstream, status: int, headers: Mapping[str, str]
    ) -> Callable[[bytes, bool], bytes]:
        held = bytearray()
        over = False

        def part(data: bytes, ends: bool) -> bytes:
            nonlocal over
            if over:
                return b""
            held.extend(data)
            over = ends or len(held) > MOST_HELD
            if not over:
                return b""
            # Cut off, it is no JSON; the client is told so.
            made = sent.exchange.whole(status, headers, bytes(held))
            held.clear()
            return _head({**_UNTRUE, **_told(sent), **made.headers, ":status": str(made.status)}) + made.body

        return part


def _model(body: bytes) -> str:
    """The name in the body, which is the provider's by now; "" where translation will say what is wrong."""
    try:
        parsed = jsontext.loads(body)
    except jsontext.JSONTextError:
        return ""
    model = parsed.get("model") if isinstance(parsed, dict) else None
    return model if isinstance(model, str) else ""


def _head(headers: Mapping[str, str]) -> bytes:
    """What is to become of path, status and headers; "" removes one."""
    lines = [f"{name}:{value}" for name, value in headers.items()]
    return _BEGIN + "\n".join([*lines, "", ""]).encode("latin-1", "replace")


def _taken(data: bytes) -> tuple[dict[str, str], bytes]:
    """The headers in front of an answer, and the rest. Raises ProtocolError where they are not."""
    head, end, rest = data.partition(b"\n\n")
    if not end or not head.startswith(_BEGIN + b":status:"):
        raise ProtocolError("an answer begins without its headers")
    lines = head[1:].decode("latin-1").split("\n")
    return {line[: (at := line.index(":", 1))]: line[at + 1 :] for line in lines}, rest


def _told(sent: translate.Upstream) -> dict[str, str]:
    """What of the request did not arrive as it was written."""
    said = {DROPPED: ", ".join(sent.dropped), WARNING: "; ".join(sent.warnings)}
    return {name: text for name, text in said.items() if text}


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
