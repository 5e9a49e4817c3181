"""Load: wrk for cost and throughput, a raw asyncio client for latency and time to first token."""

import asyncio
import re
import subprocess
import time
from pathlib import Path

SCRIPT = """
local n = 0
local head = '{"messages":[{"role":"system","content":"You answer in short sentences."},{"role":"user","content":'
  .. '"What is the capital of France, and how many people live there?"}],"temperature":0.7,"max_tokens":100,"model":"'
request = function()
  n = n + 1
  local i = n % MODELS
  local headers = {["content-type"] = "application/json", ["authorization"] = "Bearer sk-" .. n % KEYS}
  return wrk.format("POST", "/v1/chat/completions", headers, head .. "model-" .. i .. '"STREAM}')
end
"""


def write_script(file: Path, *, models: int = 1000, keys: int = 1000, stream: bool = False) -> None:
    more = ',"stream":true' if stream else ""
    file.write_text(f"local MODELS, KEYS = {models}, {keys}\n" + SCRIPT.replace("STREAM", more))


def wrk(port: int, script: Path, seconds: int, connections: int = 16) -> int:
    """Runs wrk; the number of requests answered with 2xx. Raises RuntimeError if any was not."""
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), f"http://127.0.0.1:{port}/"]
    out = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in out or "Socket errors" in out:
        raise RuntimeError(out)
    found = re.search(r"(\d+) requests in", out)
    if found is None:
        raise RuntimeError(out)
    return int(found[1])


async def latencies(port: int, *, stream: bool, number: int, connections: int = 4) -> list[float]:
    """Seconds from sending a request to its first body byte, one request at a time on each connection."""
    body = b'{"model":"model-1","messages":[{"role":"user","content":"Hi"}]' + (b',"stream":true}' if stream else b"}")
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer sk-1\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode()
    found: list[float] = []

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(number // connections):
            began = time.perf_counter()
            writer.write(head + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            if not answer.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(answer.decode())
            found.append(await _read_body(answer, reader) - began)
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(one() for _ in range(connections)))
    return found


async def _read_body(head: bytes, reader: asyncio.StreamReader) -> float:
    """Reads a whole body; the time of its first byte."""
    length = re.search(rb"content-length: (\d+)", head)
    if length is not None:
        first = await reader.readexactly(1)
        at = time.perf_counter()
        await reader.readexactly(int(length[1]) - len(first))
        return at
    at = 0.0
    while True:
        size = int(await reader.readline(), 16)
        at = at or time.perf_counter()
        await reader.readexactly(size + 2)
        if size == 0:
            return at
