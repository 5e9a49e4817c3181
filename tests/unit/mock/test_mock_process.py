"""The process: addresses, flags, TLS, signals, and the helper that runs it."""

import datetime
import ipaddress
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sidecars.mock.__main__ import parser
from sidecars.mock.app import OPERATIONS
from tests.support.mock import ROOT, MockProvider

_CHAT = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    """A start that is expected to end by itself."""
    command = [sys.executable, "-m", "sidecars.mock", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_flags_hold_for_every_request() -> None:
    flags = ("--api-key", "sk-right", "--delay", "50ms")
    with MockProvider(*flags, name="east") as mock, httpx.Client(base_url=mock.base_url) as http:
        wrong = http.post("/chat/completions", json=_CHAT, headers={"authorization": "Bearer sk-wrong"})
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (401, "invalid_api_key")
        assert "sk-" not in wrong.text
        assert http.get("/models").status_code == 401
        began = time.perf_counter()
        right = http.post("/chat/completions", json=_CHAT, headers={"authorization": "Bearer sk-right"})
        assert right.status_code == 200
        assert time.perf_counter() - began >= 0.05
        assert right.headers["x-mock-name"] == "east"
        assert mock.stats()["name"] == "east"


def test_status_flag_makes_everything_sick_but_the_mock_itself() -> None:
    with MockProvider("--status", "503") as mock, httpx.Client(base_url=mock.base_url) as http:
        assert http.post("/chat/completions", json=_CHAT).status_code == 503
        assert http.post("/nowhere").status_code == 503
        assert http.get(f"http://{mock.address}/health").status_code == 503
        assert http.post("/chat/completions", json=_CHAT, headers={"x-mock-status": "200"}).status_code == 200
        stats = mock.stats()
        assert (stats["requests"], stats["completed"]) == (3, 3)


def test_a_busy_address_is_exit_status_2(mock: MockProvider, tmp_path: Path) -> None:
    for taken in (mock.address, f"unix:{mock.socket}"):
        ended = run("--listen", f"unix:{tmp_path}/free", "--listen", taken)
        assert ended.returncode == 2
        assert ended.stderr.strip() == (
            f"mock: cannot listen on {taken}: address already in use; stop what holds it or choose another --listen"
        )
        assert not (tmp_path / "free").exists()
    mock.wait_for(lambda stats: stats["open_requests"] == 0)  # the running mock must keep its socket


def test_a_file_in_the_way_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    assert run("--listen", f"unix:{tmp_path}/notes").returncode == 2
    assert (tmp_path / "notes").read_text() == "mine"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ((), "--listen"),
        (("--listen", "9100"), "host:port"),
        (("--listen", "127.0.0.1:70000"), "host:port"),
        (("--listen", "unix:"), "path after unix:"),
        (("--listen", "127.0.0.1:0", "--status", "99"), "200 to 599"),
        (("--listen", "127.0.0.1:0", "--delay", "5"), "150ms"),
        (("--listen", "127.0.0.1:0", "--record", "-1"), "whole number"),
        (("--listen", "127.0.0.1:0", "--tls-cert", "a.pem"), "belong together"),
        (("--listen", "127.0.0.1:0", "--tls-client-ca", "a.pem"), "needs --tls-cert"),
        (("--listen", "127.0.0.1:0", "--tls-cert", "no.pem", "--tls-key", "no.pem"), "TLS files"),
    ],
)
def test_bad_flags_are_exit_status_2_and_say_what_was_expected(flags: tuple[str, ...], says: str) -> None:
    ended = run(*flags)
    assert ended.returncode == 2
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr


def test_sigterm_lets_short_streams_end_and_cuts_long_ones() -> None:
    short = {**_CHAT, "model": "mock+chunks=4+chunk-delay=50ms", "stream": True}
    long = {**_CHAT, "model": "mock+chunks=4+chunk-delay=1h", "stream": True}
    mock = MockProvider().start()
    try:
        with (
            httpx.stream("POST", f"{mock.base_url}/chat/completions", json=short) as ending,
            httpx.stream("POST", f"{mock.base_url}/chat/completions", json=long) as endless,
        ):
            began = time.perf_counter()
            os.kill(mock.pid, signal.SIGTERM)
            assert ending.read().endswith(b"data: [DONE]\n\n")
            with pytest.raises(httpx.RemoteProtocolError):
                endless.read()
            socket_path = mock.socket
            assert mock._process is not None
            assert mock._process.wait(30) == 0
            assert time.perf_counter() - began > 0.9
            assert not Path(socket_path).exists()
            assert mock.stderr().count("\n") == 1, mock.stderr()
    finally:
        mock.stop()


def test_a_killed_mock_comes_back_on_the_same_port() -> None:
    mock = MockProvider()
    with mock:
        before = mock.base_url
        mock.kill()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{before}/models")
        mock.start()
        assert mock.base_url == before
        assert httpx.get(f"{before}/models").status_code == 200
    mock.stop()  # once more is harmless


def test_a_mock_that_cannot_start_shows_its_stderr() -> None:
    mock = MockProvider("--status", "1000")
    with pytest.raises(AssertionError, match="200 to 599"):
        mock.start()


def test_a_failing_test_gets_the_stderr_as_a_note() -> None:
    with pytest.raises(ZeroDivisionError) as caught, MockProvider(name="west"):
        _ = 1 / 0
    assert "stderr of mock 'west':\nmock: ready on " in caught.value.__notes__[0]


def test_ipv6_and_a_stale_socket(tmp_path: Path) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(tmp_path / "stale"))
    stale.close()
    with MockProvider("--listen", "[::1]:0", "--listen", f"unix:{tmp_path}/stale") as mock:
        assert "http://[::1]:" in mock.stderr()
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(tmp_path / "stale"))) as http:
            assert http.get("http://m/health").status_code == 200


def test_tls_with_client_certificates(tmp_path: Path) -> None:
    authority, server, client = (tmp_path / name for name in ("ca.pem", "server.pem", "client.pem"))
    _certificates(authority, server, client)
    flags = ("--tls-cert", str(server), "--tls-key", str(server), "--tls-client-ca", str(authority))
    with MockProvider(*flags) as mock:
        assert mock.base_url.startswith("https://")
        context = ssl.create_default_context(cafile=str(authority))
        with httpx.Client(verify=context) as http, pytest.raises(httpx.TransportError):
            http.get(f"{mock.base_url}/models")
        context.load_cert_chain(client)
        with httpx.Client(verify=context) as http:
            answer = http.post(f"{mock.base_url}/chat/completions", json={**_CHAT, "stream": True})
            assert answer.text.endswith("data: [DONE]\n\n")
            with pytest.raises(httpx.TransportError):
                http.post(f"{mock.base_url}/chat/completions", json={**_CHAT, "model": "mock+fail-after=1"})


def test_the_mock_does_not_know_the_control_plane() -> None:
    code = "import sys, sidecars.mock.__main__; sys.exit(any(m.split('.')[0] == 'controlplane' for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, timeout=60).returncode == 0


def test_every_flag_and_endpoint_is_documented() -> None:
    page = (ROOT / "docs/mock.md").read_text()
    for action in parser()._actions:
        for flag in action.option_strings:
            assert flag in ("-h", "--help") or f"`{flag}`" in page, flag
    for operation in OPERATIONS:
        assert f"`{operation.method} {operation.path.replace(':path', '')}`" in page, operation.path
    for path in ("`GET /health`", "`GET /mock/requests?last=N`", "`DELETE /mock/requests`", "`GET /mock/stats`"):
        assert path in page


def _certificates(authority: Path, server: Path, client: Path) -> None:
    """An authority and two certificates that it signed, each file with its key, valid for an hour."""
    root_key = ec.generate_private_key(ec.SECP256R1())
    root_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    now = datetime.datetime.now(datetime.UTC)
    usage = x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    for path in (authority, server, client):
        is_root = path == authority
        key = root_key if is_root else ec.generate_private_key(ec.SECP256R1())
        name = root_name if is_root else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, path.stem)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(root_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=is_root, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
        )
        if is_root:
            builder = builder.add_extension(usage, critical=True)
        else:
            address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
            builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
        pem = builder.sign(root_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.write_bytes(pem + private)
