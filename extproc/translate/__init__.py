"""Translation between the dialects of clients and those of providers. Pure: bytes in, bytes out.

    result = translate.request("openai", "anthropic", body, "claude-sonnet-4-5", stamp, Options())
    if isinstance(result, Refused):
        answer = translate.refusal(result, "openai")       # status, headers, body for the client
    else:
        send(result.path, result.headers, result.body)     # with the provider's credential, set elsewhere
        exchange = result.exchange
        if exchange.untouched: ...                         # the answer needs no translation
        elif exchange.streams(status, headers):
            set_headers, stream = exchange.stream()
            stream.feed(chunk) ...; stream.end()           # any chunking; end() may be called again
        else:
            answer = exchange.whole(status, headers, body)

What a provider cannot express is named in `Upstream.dropped` or refused, as `Options.unsupported` says; content (a
message, an image) is never dropped.
"""

from extproc.translate.exchange import Exchange, Stream
from extproc.translate.failures import Answer, ClientName, Failure
from extproc.translate.losses import Refused
from extproc.translate.providers.common import Options
from extproc.translate.requests import (
    CLIENT_APIS,
    CLIENTS,
    PROVIDERS,
    ClientAPI,
    ProviderName,
    Stamp,
    Upstream,
    refusal,
    request,
)

__all__ = [
    "CLIENTS",
    "CLIENT_APIS",
    "PROVIDERS",
    "Answer",
    "ClientAPI",
    "ClientName",
    "Exchange",
    "Failure",
    "Options",
    "ProviderName",
    "Refused",
    "Stamp",
    "Stream",
    "Upstream",
    "refusal",
    "request",
]
