"""Policies compiled as `ctl` compiles them, with secrets whose values a test can look for."""

from base64 import b64encode
from datetime import UTC, datetime

from controlplane.compiling import Compiled, Compiler
from controlplane.policy.load import LoadCache
from controlplane.policy.secrets import SecretRef
from controlplane.xds.surroundings import Surroundings

NOW = datetime(2026, 1, 1, tzinfo=UTC)
AROUND = Surroundings("/etc/ssl/certs/ca-certificates.crt", "/run/{}.sock")


def read(ref: SecretRef) -> str:
    if ref.name.startswith("WHSEC"):
        return f"whsec_{b64encode(ref.name.encode().ljust(24)).decode()}"
    return f"{'redis://' if ref.name.startswith('REDIS') else ''}value-of-{ref.name}"


def compiled(text: str, now: datetime = NOW) -> Compiled:
    folder = frozenset({"config.json", "tokenizer.json", "model.onnx"})
    return Compiler("policy.yaml", read, AROUND, LoadCache(), files=lambda _: folder).compile(text, now)
