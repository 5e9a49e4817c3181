"""The usage record: what one request took and cost. schemas/usage.schema.json describes the same for other programs."""

from typing import NamedTuple

# Money is counted in whole picodollars (1e-12 USD): a price of $0.0001 per million tokens is 100 of them per token.
PICO = 10**12
REQUEST_ID_LIMIT = 256  # characters of a request id, which clients choose; the ledger holds 512 of a record's


# Tuples, since every request makes one of each: a frozen dataclass takes three times as long to make.
class Tokens(NamedTuple):
    """What a provider charges for. `cached` is part of `input`, `reasoning` is part of `output`.

    `cache_write`, also part of `input`, is what Anthropic bills for writing its prompt cache.
    """

    input: int = 0
    output: int = 0
    cached: int = 0
    cache_write: int = 0
    reasoning: int = 0

    @property
    def total(self) -> int:
        return self.input + self.output


class UsageRecord(NamedTuple):
    """One request. Names are as in the policy; "" where there is none (no key: the gateway is open)."""

    id: str  # unique: the request id, which clients may choose, and after a dot where its entry stood in the log
    at_us: int  # when it arrived: microseconds since the epoch, UTC
    key: str
    team: str
    organization: str
    model: str  # as the client asked for it
    provider: str  # that answered; "" for an answer out of the cache
    served_model: str  # as the provider names it in its answer, else as it was asked for it
    surface: str  # path of the API below /v1, such as "chat/completions"
    attempts: int
    status: int  # HTTP status towards the client; 0 when the client left before the answer began
    tokens: Tokens
    estimated: bool  # tokens are estimated, not reported
    cost_pico: int | None  # None: no known price. Zero is a price
    first_byte_us: int | None  # until the answer's first byte went to the client, which is a stream's first token
    duration_us: int
    bytes_in: int  # body bytes from and to the client
    bytes_out: int
    streamed: bool
    complete: bool  # the answer went to its end; False when either side left in the middle
    cache_hit: bool
