"""An OpenID-like issuer for tests: a discovery document and a JWK set over TLS, signed by a CA of its own.

with OutsideIssuer() as issuer:
    jwks_uri = httpx.get(issuer.url + "/.well-known/openid-configuration", verify=issuer.context()).json()["jwks_uri"]
    token = issuer.token(sub="bob", groups=["eng"])
"""

import datetime
import json
import ssl
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from tests.support.ports import free_port

AUDIENCE = "headgate"
_DAY = datetime.timedelta(days=1)


class OutsideIssuer:
    """Serves while entered. Its keys can be rotated; `stop` and `start` take it away and bring it back."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.fetched = 0  # how often the keys were asked for
        self._ca, self._ca_key = _authority()
        self._pem = _certificate(self._ca, self._ca_key, host)
        self._keys: list[tuple[str, rsa.RSAPrivateKey]] = []
        self._server: ThreadingHTTPServer | None = None
        self._port = free_port()
        self._host = host
        self.rotate()

    @property
    def url(self) -> str:
        """What `iss` says."""
        return f"https://{self._host}:{self._port}"

    @property
    def ca(self) -> str:
        return self._ca.public_bytes(Encoding.PEM).decode()

    def context(self) -> ssl.SSLContext:
        """For clients that trust it."""
        return ssl.create_default_context(cadata=self.ca)

    def rotate(self, *, keep: bool = False) -> None:
        """A new key signs; with `keep` the ones before stay published."""
        fresh = (uuid4().hex, rsa.generate_private_key(65537, 2048))
        self._keys = [fresh, *(self._keys if keep else ())]

    def jwks(self) -> dict[str, Any]:
        return {"keys": [{**_jwk(key), "kid": kid, "alg": "RS256", "use": "sig"} for kid, key in self._keys]}

    def public_pem(self) -> bytes:
        return self._keys[0][1].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    @property
    def kid(self) -> str:
        return self._keys[0][0]

    def claims(self, **more: Any) -> dict[str, Any]:
        """Claims of a good token; None leaves one out."""
        said = {"iss": self.url, "aud": AUDIENCE, "sub": "bob", "exp": int(time.time()) + 600, **more}
        return {name: value for name, value in said.items() if value is not None}

    def token(self, *, kid: str | None = None, **claims: Any) -> str:
        return jwt.encode(self.claims(**claims), self._keys[0][1], "RS256", {"kid": kid or self.kid})

    def start(self) -> Self:
        self._server = ThreadingHTTPServer((self._host, self._port), _handler(self))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.NamedTemporaryFile(suffix=".pem") as file:
            Path(file.name).write_bytes(self._pem)
            context.load_cert_chain(file.name)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _handler(issuer: OutsideIssuer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            documents = {
                "/.well-known/openid-configuration": {"issuer": issuer.url, "jwks_uri": f"{issuer.url}/keys"},
                "/keys": issuer.jwks(),
            }
            issuer.fetched += self.path == "/keys"
            content = json.dumps(documents.get(self.path, {})).encode()
            self.send_response(200 if self.path in documents else 404)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Nobody reads it."""

    return Handler


def _jwk(key: rsa.RSAPrivateKey) -> dict[str, Any]:
    made: dict[str, Any] = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return made


def _authority() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    made = _named(name, name, key.public_key()).add_extension(x509.BasicConstraints(True, None), critical=True)
    made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    use = x509.KeyUsage(False, False, False, False, False, True, True, False, False)  # signs certificates and CRLs
    return made.add_extension(use, critical=True).sign(key, hashes.SHA256()), key


def _certificate(ca: x509.Certificate, ca_key: ec.EllipticCurvePrivateKey, host: str) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuer")])
    made = _named(name, ca.subject, key.public_key())
    made = made.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(host))]), critical=False)
    by = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    signed = made.add_extension(by, critical=False).sign(ca_key, hashes.SHA256())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private + signed.public_bytes(Encoding.PEM)


def _named(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    return made.serial_number(x509.random_serial_number()).not_valid_before(now - _DAY).not_valid_after(now + _DAY)
