"""What a server of vLLM is asked on its unix socket: whether it serves, and whether it has anything to do."""

import re

import httpx

_ANSWER_S = 5.0
# https://docs.vllm.ai/en/latest/usage/metrics: gauges, one row for each engine.
_REQUESTS = re.compile(r"^vllm:num_requests_(?:running|waiting)(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE)


async def healthy(socket: str) -> bool:
    """Whether it serves."""
    try:
        return (await _get(socket, "/health")).status_code == 200
    except httpx.HTTPError:
        return False


async def idle(socket: str) -> bool:
    """Whether it has no requests, none that wait either: as its metrics say (without them it seems to have none).

    One that is too busy to answer is not idle; one that is away is.
    """
    try:
        answer = await _get(socket, "/metrics")
    except httpx.TimeoutException:
        return False
    except httpx.HTTPError:
        return True
    return not any(float(number) for number in _REQUESTS.findall(answer.text))


async def _get(socket: str, path: str) -> httpx.Response:
    """Raises httpx.HTTPError."""
    transport = httpx.AsyncHTTPTransport(uds=socket, verify=False)  # no certificates to load
    async with httpx.AsyncClient(transport=transport, timeout=_ANSWER_S, trust_env=False) as client:
        return await client.get(f"http://vllm{path}")
