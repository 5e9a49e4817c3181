"""Killed processes, taken ports, shutdown with requests in flight; TLS towards clients and providers."""

import os
import signal
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.gateway import Gateway, alive, eventually
from tests.support.mock import MockProvider

BASE = "providers: {p: {kind: mock}}\nmodels: {m: p}\n"
MORE = "providers: {p: {kind: mock}}\nmodels: {m: p, n: p}\n"


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with Gateway(BASE) as running:
        yield running


def serving(gateway: Gateway, model: str = "m") -> bool:
    try:
        return gateway.chat(model).status_code == 200
    except httpx.HTTPError:
        return False


def test_a_killed_envoy_is_started_again(gateway: Gateway) -> None:
    def envoy() -> tuple[int, str | None]:
        (found,) = [p for p in gateway.status()["processes"] if p["name"] == "envoy"]
        return found["restarts"], found["last_exit"]

    os.kill(gateway.process("envoy"), signal.SIGKILL)
    eventually(lambda: envoy() == (1, "ended by SIGKILL"), "it is started again")
    eventually(lambda: serving(gateway), "it serves again")


def test_traffic_outlives_a_killed_control_plane_which_finds_its_envoy_again(gateway: Gateway) -> None:
    envoy = gateway.process("envoy")
    gateway.kill()
    assert serving(gateway)
    gateway.edit(MORE)
    assert gateway.chat("n").status_code == 404
    gateway.start()
    eventually(lambda: serving(gateway, "n"), "the edit made meanwhile is live")
    assert gateway.process("envoy") == envoy
    eventually(
        lambda: all(t["in_sync"] for node in gateway.admin.get("/nodes").json() for t in node["types"]), "in sync"
    )


def test_a_wrong_policy_at_the_next_start_leaves_the_traffic_alone(gateway: Gateway) -> None:
    gateway.kill()
    gateway.edit(BASE.replace("m: p", "m: q"))
    assert gateway.second().returncode == 1
    assert serving(gateway)
    gateway.edit(BASE)
    gateway.start()


def test_a_second_control_plane_on_the_same_state_is_refused(gateway: Gateway) -> None:
    done = gateway.second()
    assert done.returncode == 1
    assert f"in use by process {gateway.pid}" in done.stderr


def test_a_taken_port_is_told_at_start(gateway: Gateway) -> None:
    other = Gateway(BASE)
    try:
        other.port = gateway.port
        other.spawn()
        assert other.wait() == 1
        assert f"cannot listen on 127.0.0.1:{gateway.port}" in other.output()
    finally:
        other.close()


def test_an_interrupt_lets_requests_in_flight_finish(gateway: Gateway) -> None:
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    slow = {"x-mock-chunks": "20", "x-mock-chunk-delay": "100ms"}
    with httpx.stream("POST", f"{gateway.base_url}/chat/completions", json=body, headers=slow, timeout=30) as answer:
        lines = answer.iter_lines()
        next(lines)
        processes = gateway.processes()
        gateway.signal()
        assert "data: [DONE]" in list(lines)
    assert gateway.wait() == 0
    assert not [name for name, pid in processes.items() if Path(f"/proc/{pid}").exists()]


def test_a_second_interrupt_ends_at_once() -> None:
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    slow = {"x-mock-chunks": "1000", "x-mock-chunk-delay": "100ms"}
    with Gateway(BASE, settings="drain: 90s") as gateway:
        url = f"{gateway.base_url}/chat/completions"
        with httpx.stream("POST", url, json=body, headers=slow, timeout=30) as answer:
            lines = answer.iter_lines()  # kept: httpx hangs up when it is forgotten
            next(lines)
            gateway.signal()
            eventually(lambda: "draining" in gateway.output(), "it drains")
            gateway.signal()
            gateway.wait(45)  # long before the stream or the drain would be over


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_was_started_ends_with_a_start_that_is_interrupted(number: signal.Signals) -> None:
    def interrupted() -> bool:
        """Whether the signal came before it served."""
        gateway = Gateway(BASE)
        try:
            gateway.spawn()
            started = eventually(gateway.processes, "a process is started")
            os.kill(gateway.pid, number)
            code = gateway.wait()
            assert not [name for name, pid in started.items() if alive(pid)]
            assert "Traceback" not in gateway.output()
            assert code == 130 or "serving" in gateway.output()
            return code == 130
        finally:
            gateway.close()

    eventually(interrupted, "a start is interrupted", 60)


def test_health_turns_bad_before_the_gateway_closes(gateway: Gateway) -> None:
    seen: list[int] = []
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    slow = {"x-mock-chunks": "250", "x-mock-chunk-delay": "100ms"}

    def look() -> None:
        while not seen or seen[-1] == 200:
            try:
                seen.append(httpx.get(f"{gateway.url}/health").status_code)
            except httpx.HTTPError:
                return

    with httpx.stream("POST", f"{gateway.base_url}/chat/completions", json=body, headers=slow, timeout=30) as answer:
        lines = answer.iter_lines()  # kept: httpx hangs up when it is forgotten
        next(lines)
        watcher = threading.Thread(target=look)
        watcher.start()
        gateway.signal()
        watcher.join()
    gateway.wait()
    assert seen[-1] == 503


class Authority:
    """A certificate authority of the test's own."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self.pem = self._certificate(self._name, self._key, ca=True)

    def issue(self, host: str) -> tuple[str, str]:
        """A certificate for a host and its key, PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return self._certificate(name, key, host=host), private.decode()

    def _certificate(
        self, name: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool = False, host: str = ""
    ) -> str:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name).issuer_name(self._name).public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )  # fmt: skip
        if host:
            numeric = host[0].isdigit()
            san: x509.GeneralName = x509.IPAddress(ip_address(host)) if numeric else x509.DNSName(host)
            builder = builder.add_extension(x509.SubjectAlternativeName([san]), critical=False)
        made = builder.sign(self._key, hashes.SHA256())
        return made.public_bytes(serialization.Encoding.PEM).decode()


def test_clients_are_served_by_tls_and_must_show_a_certificate(tmp_path: Path) -> None:
    authority = Authority()
    certificate, key = authority.issue("127.0.0.1")
    files = {"tls/cert.pem": certificate, "tls/key.pem": key, "tls/ca.pem": authority.pem}
    settings = "tls: {cert: {file: tls/cert.pem}, key: {file: tls/key.pem}, client_ca: {file: tls/ca.pem}}"
    (tmp_path / "ca").write_text(authority.pem)
    for name, content in zip(("cert", "key"), authority.issue("client"), strict=True):
        (tmp_path / name).write_text(content)
    stranger = ssl.create_default_context(cafile=str(tmp_path / "ca"))
    client = ssl.create_default_context(cafile=str(tmp_path / "ca"))
    client.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    with Gateway(BASE, settings=settings, files=files, scheme="https", verify=client) as gateway:
        assert gateway.chat("m").status_code == 200
        with httpx.Client(verify=client, http2=True) as modern:
            assert modern.get(f"{gateway.url}/health").http_version == "HTTP/2"
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{gateway.url}/health", verify=stranger)


def test_a_providers_certificate_is_verified(tmp_path: Path) -> None:
    authority = Authority()
    right, wrong = authority.issue("127.0.0.1"), authority.issue("elsewhere.example")
    paths = {}
    for name, (certificate, key) in {"right": right, "wrong": wrong}.items():
        paths[name] = (tmp_path / f"{name}.pem", tmp_path / f"{name}.key")
        paths[name][0].write_text(certificate)
        paths[name][1].write_text(key)
    flags = {name: ("--tls-cert", str(cert), "--tls-key", str(key)) for name, (cert, key) in paths.items()}
    with MockProvider(*flags["right"]) as good, MockProvider(*flags["wrong"]) as bad:
        policy = f"""
providers:
  good: {{kind: openai, base_url: "{good.base_url}", tls: {{ca: {{file: ca.pem}}}}}}
  bad: {{kind: openai, base_url: "{bad.base_url}", tls: {{ca: {{file: ca.pem}}}}}}
  named: {{kind: openai, base_url: "{bad.base_url}", tls: {{ca: {{file: ca.pem}}, server_name: elsewhere.example}}}}
  distrusted: {{kind: openai, base_url: "{good.base_url}"}}
models: {{good: good, bad: bad, named: named, distrusted: distrusted}}
"""
        with Gateway(policy, files={"ca.pem": authority.pem}) as gateway:
            found = {name: gateway.chat(name).status_code for name in ("good", "bad", "named", "distrusted")}
    assert found == {"good": 200, "bad": 503, "named": 200, "distrusted": 503}
