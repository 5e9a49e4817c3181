"""A deterministic stand-in for an OpenAI-compatible provider: no account, no network, no chance but by a seed.

    python -m sidecars.mock --listen 127.0.0.1:9100 --listen unix:/run/mock.sock

It answers every API that Headgate routes, with answers that are a function of the request, and misbehaves on request.
A control is asked for by a request header or, where only the model name can be chosen, by the model name:

    x-mock-delay: 150ms            {"model": "mock+delay=150ms+chunks=50"}

A model name with directives starts with `mock` (`mock-gpt-4o+status=503`); every other name means itself. Values in
model names are percent-decoded, so that they may hold a '+'. Headers win over the model name, which wins over flags.

status          429               answer with this status, 200 to 599; from 300 on in OpenAI's error shape
first-status    429               the same for the first attempt of a request (`x-request-id`, else body) only
retry-after     2                 a `retry-after` header with this value
delay           lognormal(1s,3s)  wait before the headers: a time, or a distribution to draw it from
chunk-delay     20ms              wait before each chunk of a stream, likewise
chunks          50                stream the text in this many pieces, repeating its words when it has fewer
fail-after      3                 close the connection after this many chunks; a plain answer is cut in the middle;
                                  0 closes it before the headers
error-after     3                 after this many chunks send `data: {"error": ...}` and end; a plain answer is a 500
hang            headers           accept the request and never answer; `body`: send the headers and nothing more
usage           19,10             report these prompt and completion tokens
cached-tokens   8                 report as many of the prompt tokens as cached
reasoning-tokens 5                report this many reasoning tokens; they add to the completion tokens
no-usage        1                 report no usage, even where it was asked for
size            64KiB             the size of the answer's text (or audio) in bytes, at most 16MiB
body            %3Chtml%3E        answer with these percent-encoded bytes instead
content-type    text/html         the content type of a plain answer
gzip            1                 compress the answer, streams too, chunk by chunk
errors          503=0.05          let this share of the requests fail
script          ok*2,503,ok...    what the requests for a model get in turn

Fixtures answer from files. `docs/mock.md` has their format, the endpoints, how tokens are counted, what is recorded and
counted, and the command line.
"""
