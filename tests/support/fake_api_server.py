"""Stands in for vLLM's server: the same arguments, paths and manners, and no model. Standard library only.

Put into an environment as `vllm.entrypoints.openai.api_server` by `tests/support/vllm_environment.py`. Like the real
one it binds its socket at once and listens when it has loaded, fails where the socket's file exists, has a worker
process, cuts requests off at SIGTERM, and writes what it likes into its log. `--hold FILE`: loads as long as there is
this file. `--gate FILE`: streams stop after their first chunk until there is this file. `--crash`: ends at once.
"""

import argparse
import json
import os
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer

_running = 0
_counting = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    """One request per connection is not enough for a proxy: connections stay."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def do_GET(self) -> None:
        if self.path == "/health":
            self._answer(b"")
        elif self.path == "/metrics":
            row = 'vllm:num_requests_{}{{engine="0",model_name="fake"}} {}\n'
            self._answer((row.format("running", float(_running)) + row.format("waiting", "0.0")).encode())
        elif self.path == "/v1/models":
            self._answer(json.dumps({"object": "list", "data": [{"id": n} for n in self.server.names]}).encode())
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        global _running  # noqa: PLW0603 - what its metrics tell
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with _counting:
            _running += 1
        try:
            if body.get("stream"):
                self._stream(body)
            else:
                self._answer(json.dumps(self._chat(body, "message", os.environ.get("FLAVOUR", "plain"))).encode())
        finally:
            with _counting:
                _running -= 1

    def _chat(self, body: dict, part: str, content: str) -> dict:
        made = {"id": "c", "object": "chat.completion", "created": 1, "model": body["model"]}
        choice = {"index": 0, part: {"role": "assistant", "content": content}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        return {**made, "choices": [choice], "usage": usage, "system_fingerprint": f"fake-{os.getpid()}", "seen": body}

    def _stream(self, body: dict) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        self._event(self._chat(body, "delta", "begun"))
        while self.server.gate is not None and not self.server.gate.exists():
            time.sleep(0.01)
        self._event(self._chat(body, "delta", " ended"))
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _event(self, value: dict) -> None:
        self._chunk(b"data: " + json.dumps({**value, "object": "chat.completion.chunk"}).encode() + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "unix"


class Server(ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 128
    names: list[str]
    gate: Path | None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--served-model-name", nargs="+", required=True)
    parser.add_argument("--uds", required=True)
    parser.add_argument("--hold", type=Path)
    parser.add_argument("--gate", type=Path)
    parser.add_argument("--crash", action="store_true")
    parser.add_argument("--max-model-len", type=int)
    args = parser.parse_args()
    print("variables:", *sorted(os.environ), flush=True)
    print("flavour:", os.environ.get("FLAVOUR"), flush=True)
    if args.crash:
        sys.exit(f"RuntimeError: no kernel image is available for {os.environ.get('FLAVOUR')}")
    server = Server(args.uds, Handler, bind_and_activate=False)
    server.names, server.gate = args.served_model_name, args.gate
    server.socket = socket.socket(socket.AF_UNIX)
    server.server_bind()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if (worker := os.fork()) == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        server.socket.close()
        while True:
            signal.pause()
    print("worker:", worker, flush=True)
    while args.hold is not None and args.hold.exists():
        time.sleep(0.01)
    server.server_activate()
    print("serving", args.model, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
