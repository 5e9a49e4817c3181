"""Envoy's own verdict on a configuration, in its own words."""

import asyncio
import re
import signal
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from controlplane.policy.secrets import Secret
from controlplane.runtime.envoy import envoy_env, find_envoy

# Envoy prints the offending message in the text format, which holds what the policy keeps secret. The dump starts
# with a marker and ends, where anything follows, at a line that begins with a colon; no line of a dump does.
_DUMP = re.compile(r"\s*goo\.gle/debug\w*.*?(?=\n: |\Z)", re.DOTALL)
_REJECTED = re.compile(r"error initializing configuration '[^']*': ")
_CONSTRAINT = re.compile(r"Proto constraint validation failed \((?P<chain>.*?)\)(?=\s*(?:\n|$))")
_LINK = re.compile(r"^(?:\w+)ValidationError\.(?P<field>[^:]+): (?P<reason>.*)$", re.DOTALL)
_LOG_PREFIX = re.compile(r"^\[[^\]]*\](?:\[[^\]]*\])* (?:\[[^\]]*\] )?")
_CUT = 1000  # characters: an error is a line, not a document


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether Envoy takes a configuration; if not, one line naming what is wrong."""

    ok: bool
    message: str = ""


async def judge(
    bootstrap: bytes, timeout_s: float = 30.0, *, secrets: Iterable[Secret] = (), envoy: Path | None = None
) -> Verdict:
    """Has Envoy validate a serialized Bootstrap (`envoy --mode validate`), without serving anything.

    The bootstrap may hold secrets: it is written to a private file that is removed in every case, and `secrets`
    are taken out of the answer. Cancelling ends Envoy.

    Raises:
        EnvoyNotFoundError: there is no Envoy to ask, or no module for it.
    """
    binary = envoy or find_envoy()
    with tempfile.TemporaryDirectory(prefix="headgate-judge-") as folder:  # created with mode 0700
        return await _ask(binary, _written(folder, bootstrap), timeout_s, tuple(secrets))


def in_envoys_words(text: str, secrets: Iterable[Secret] = ()) -> str:
    """What Envoy says about a rejected resource, as one line without dumps, time stamps and secrets.

    Serves both the output of the validation and the `error_detail` of a rejected push.
    """
    rejection = _REJECTED.search(text)
    said = text[rejection.end() :] if rejection else text
    said = re.sub(r":\s+:", ":", _DUMP.sub("", said)).strip().removeprefix(": ").rstrip(": \n")
    said = _CONSTRAINT.sub(lambda found: _field_path(found["chain"]), said)
    for secret in sorted((s.reveal() for s in secrets), key=len, reverse=True):
        if secret:
            said = said.replace(secret, "[redacted]")
    said = " ".join(said.split())
    return said if len(said) <= _CUT else said[:_CUT] + "…"


def _field_path(chain: str) -> str:
    """``A.B: embedded message failed validation | caused by C.D: too short`` -> ``B.D: too short``."""
    links = [_LINK.match(part) for part in chain.split(" | caused by ")]
    known = [link for link in links if link is not None]
    if not known or len(known) != len(links):
        return chain
    return ".".join(link["field"] for link in known) + f": {known[-1]['reason']}"


def _written(folder: str, bootstrap: bytes) -> Path:
    file = Path(folder, "bootstrap.pb")  # the suffix tells Envoy that it is the binary format
    file.touch(mode=0o600)
    file.write_bytes(bootstrap)
    return file


async def _ask(binary: Path, file: Path, timeout_s: float, secrets: tuple[Secret, ...]) -> Verdict:
    process = await asyncio.create_subprocess_exec(
        str(binary),
        *("--mode", "validate", "-c", str(file), "--disable-hot-restart", "--log-level", "error"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=envoy_env(),
    )
    try:
        async with asyncio.timeout(timeout_s):
            _, complaint = await process.communicate()
    except TimeoutError:
        return Verdict(False, f"Envoy did not judge the configuration within {timeout_s:g} s")
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    text = complaint.decode(errors="replace")
    if process.returncode == 0:
        return Verdict(True)
    if process.returncode is not None and process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        return Verdict(False, f"Envoy was ended by {name} while it judged the configuration")
    if not _REJECTED.search(text):
        text = "\n".join(_LOG_PREFIX.sub("", line) for line in text.splitlines())
    return Verdict(False, in_envoys_words(text, secrets) or f"Envoy ended with exit code {process.returncode}")
