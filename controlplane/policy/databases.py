"""URLs of databases, of which only their values tell whether they are any. None is quoted: it may hold a password."""

from collections.abc import Iterator

from controlplane.policy.check import Places
from controlplane.policy.diagnostics import Diagnostic, Severity
from controlplane.policy.language import Policy
from controlplane.policy.secrets import SecretRef, Secrets


def check_databases(policy: Policy, secrets: Secrets, places: Places) -> Iterator[Diagnostic]:
    """What is no URL of a Redis, and of no database that a ledger can be kept in."""

    def error(code: str, field: str, ref: SecretRef, of: str, expected: str) -> Diagnostic:
        return Diagnostic(Severity.ERROR, code, f"{ref} holds no URL of {of}", places(("gateway", field)), expected)

    redis, ledger = policy.gateway.redis, policy.gateway.ledger
    if redis is not None and redis in secrets and not _is_redis(secrets[redis].reveal()):
        yield error("invalid-redis", "redis", redis, "a Redis", "redis://HOST:PORT")
    if ledger is not None and ledger in secrets and not _is_ledger(secrets[ledger].reveal()):
        expected = "sqlite:///PATH or postgresql://USER@HOST/NAME"
        yield error("invalid-ledger", "ledger", ledger, "a database for the ledger", expected)


def _is_redis(url: str) -> bool:
    from redis.asyncio.connection import parse_url  # noqa: PLC0415 - slow to import, and few policies need it

    try:
        found = parse_url(url)
    except ValueError:
        return False
    port = found.get("port", 0)
    return isinstance(port, int) and 0 <= port <= 65535


def _is_ledger(url: str) -> bool:
    from extproc.usage.ledger.database import parsed  # noqa: PLC0415 - likewise

    try:
        parsed(url)
    except ValueError:
        return False
    return True
