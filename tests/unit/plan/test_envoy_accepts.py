"""A real Envoy takes what the compiler makes of every example and of every golden case that compiles."""

import base64
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from controlplane.compiling import Compiler
from controlplane.policy.diagnostics import PolicyError
from controlplane.policy.load import LoadCache
from controlplane.policy.secrets import SecretRef
from controlplane.runtime.judge import Verdict, judge
from controlplane.xds.link import static_bootstrap
from controlplane.xds.surroundings import Surroundings
from tests.support.words import tokenizer_json
from tests.unit.plan.compiled import AROUND, NOW

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted(ROOT.glob("examples/*.yaml"))
CASES = sorted(ROOT.glob("tests/golden/cases/*.txt"))
LINE = "=" * 40 + "\n"


@pytest.mark.parametrize("policy", [*EXAMPLES, *CASES], ids=lambda path: path.stem)
async def test_envoy_accepts(policy: Path, ca_bundle: Path) -> None:
    around = Surroundings(str(ca_bundle), AROUND.service_socket)
    text, line, expected = policy.read_text(encoding="utf-8").partition(LINE)
    try:
        made = Compiler(policy.name, read, around, LoadCache(), files=files).compile(text, NOW)
    except PolicyError:
        assert line, "an example does not compile"
        assert expected.startswith(("error: ", "warning: "))
        return
    bootstrap = static_bootstrap(made.snapshot).SerializeToString(deterministic=True)
    assert await judge(bootstrap, secrets=made.secrets.values()) == Verdict(True)


@pytest.fixture(scope="session")
def ca_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificate authorities of its own: not every machine has a bundle at the same place."""
    file = tmp_path_factory.mktemp("ca") / "bundle.pem"
    file.write_text(certificate()[0])
    return file


def files(path: str) -> frozenset[str] | None:
    """A model's folder, unless its name says that something is wrong with it."""
    wrong = path.removeprefix("./").startswith(("absent", "without", "several", "Qwen"))
    return None if wrong else frozenset({"config.json", "tokenizer.json", "model.onnx", "int8.onnx"})


def read(ref: SecretRef) -> str:
    """PEM for what is named like a PEM file, some text for anything else; nothing where a case wants it absent."""
    if ref.name.startswith("ABSENT"):
        raise LookupError("it is not set")
    if ref.name == "prices.json":
        return '{"version": 1, "families": {}, "models": []}'
    if ref.name == "words.json":
        return tokenizer_json()
    if ref.name == "GUARD_URL":
        return "https://guard.example.com/value-of-GUARD_URL"
    if ref.name.startswith("WHSEC"):
        return "whsec_" + base64.b64encode(bytes(32)).decode()
    if not ref.name.endswith((".pem", ".key")):
        return f"{'redis://' if ref.name.startswith('REDIS') else ''}value-of-{ref.name}"
    return certificate()[1 if "key" in ref.name else 0]


@cache
def certificate() -> tuple[str, str]:
    """A self-signed certificate and its private key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "headgate test")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return signed.public_bytes(pem).decode(), private.decode()
