"""Static keys, issued keys and outside issuers side by side, judged by a real Envoy.

The filters come over ECDS from files, in the order that controlplane/xds/tokens.py asks for. A second listener plays
the provider: it answers what it was sent.
"""

import base64
import hashlib
import hmac
import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from envoy.config.bootstrap.v3 import bootstrap_pb2 as bootstrap
from envoy.config.cluster.v3 import cluster_pb2 as cluster
from envoy.config.common.mutation_rules.v3 import mutation_rules_pb2 as mutation
from envoy.config.core.v3 import address_pb2 as address
from envoy.config.core.v3 import config_source_pb2 as source
from envoy.config.core.v3 import extension_pb2 as extension
from envoy.config.listener.v3 import listener_pb2 as listener
from envoy.extensions.filters.http.api_key_auth.v3 import api_key_auth_pb2 as auth
from envoy.extensions.filters.http.router.v3 import router_pb2 as router
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import header_mutation_pb2 as early
from envoy.service.discovery.v3 import discovery_pb2 as discovery
from google.protobuf import json_format
from google.protobuf.message import Message

from controlplane.keys.issue import Issued, Request, issue
from controlplane.keys.signing import SigningKeys
from controlplane.plan import upstreams
from controlplane.plan.ir import Issuer, RemoteKeys
from controlplane.policy.grammar import Url
from controlplane.policy.secrets import Secret, SecretRef
from controlplane.runtime.envoy import find_envoy
from controlplane.xds import errors, issuers, keys, names, tokens
from controlplane.xds.protos import pack
from extproc.usage.identity import Owner
from tests.support.gateway import eventually

CORP_KEYS = SecretRef("file", "corp.json")
CORP, SHOP = "https://login.corp.example", "https://shop.example"
FILTERS = {
    "tokens": tokens.JWT_TYPE,
    "revocations": tokens.RBAC_TYPE,
    "issuers": tokens.JWT_TYPE,
    "identities": tokens.MATCHED_TYPE,
    "keys": tokens.MATCHED_TYPE,
}


class Outside:
    """An issuer of RS256 tokens, as OpenID providers are."""

    def __init__(self, url: str, audience: str, kid: str) -> None:
        self.url, self.audience, self.kid = url, audience, kid
        self._private = rsa.generate_private_key(65537, 2048)

    def jwks(self) -> str:
        public = jwt.algorithms.RSAAlgorithm.to_jwk(self._private.public_key(), as_dict=True)
        return json.dumps({"keys": [{**public, "kid": self.kid, "alg": "RS256"}]})

    def token(self, **claims: Any) -> str:
        said = {"iss": self.url, "aud": self.audience, "sub": "bob", "exp": time.time() + 600, **claims}
        said = {name: value for name, value in said.items() if value is not None}
        return jwt.encode(said, self._private, "RS256", {"kid": self.kid})


class Edge:
    """Envoy in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = datetime.now(UTC)
        self.signing = SigningKeys.open(folder / "keys", self.now)
        self.corp, self.shop = Outside(CORP, "gateway", "c1"), Outside(SHOP, "shop", "s1")
        self.statics = {"sk-static": "carol", "hg-own": "dave", "eyes": "erin"}
        self._process: subprocess.Popen[bytes] | None = None
        self._client = httpx.Client(transport=httpx.HTTPTransport(uds=self._socket("edge")), base_url="http://edge")

    def start(self) -> None:
        self.revoke()
        self.accept()
        self._publish("issuers", issuers.authentication(self._issuers(), {CORP_KEYS: Secret(self.corp.jwks())}))
        self._publish("identities", issuers.identities(self._issuers(), ()))
        config = auth.ApiKeyAuth(
            key_sources=keys.SOURCES, forwarding={"header": names.CLIENT, "hide_credentials": True}
        )
        for secret, client in self.statics.items():
            config.credentials.add(key=secret, client=client)
        self._publish("keys", tokens.static_keys(config))
        (self.folder / "bootstrap.pb").write_bytes(self._bootstrap().SerializeToString())
        command = [str(find_envoy()), "-c", str(self.folder / "bootstrap.pb"), "--concurrency", "1"]
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--disable-hot-restart", "-l", "warning"], stdout=log, stderr=log
            )
        eventually(self._serves, "Envoy serves")

    def stop(self) -> None:
        self._client.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def accept(self) -> None:
        """Tells Envoy which signing keys count."""
        jwks = json.dumps(self.signing.public_jwks(self.now))
        self._publish("tokens", tokens.authentication(jwks))

    def revoke(self, *jtis: str) -> None:
        self._publish("revocations", tokens.revocations(jtis))

    def issue(self, name: str = "alice", now: datetime | None = None, **more: Any) -> Issued:
        return issue(self.signing.current, Request(name, f"{name};std;", **more), now or self.now, uuid4())

    def ask(self, *headers: tuple[str, str], path: str = "/v1/models") -> httpx.Response:
        return self._client.get(path, headers=list(headers))

    def bearer(self, secret: str, *more: tuple[str, str]) -> httpx.Response:
        return self.ask(("authorization", f"Bearer {secret}"), *more)

    def _issuers(self) -> tuple[Issuer, ...]:
        fetched = RemoteKeys(
            "http://shop/jwks", upstreams.issuer("upstream", Url("http", "shop", 80, ""), None), 60_000
        )
        corp = _issuer(
            "corp", CORP, "gateway", CORP_KEYS, key_claim="profile.name", team_claim="org.team", limits=("std",),
            otherwise=Owner("corp:"), teams=(("search", Owner("corp:", "search")), ("100%", Owner("corp:", "100%"))),
        )  # fmt: skip
        till = (("till", Owner("shop:", "till")),)
        return corp, _issuer("shop", SHOP, "shop", fetched, team_claim="team", teams=till)

    def _publish(self, name: str, config: Message) -> None:
        """A file is a resource; Envoy sees it when it is moved into place."""
        found = extension.TypedExtensionConfig(name=name, typed_config=pack(config))
        response = discovery.DiscoveryResponse(version_info=uuid4().hex, resources=[pack(found)])
        fresh = self.folder / f"{name}.new"
        fresh.write_text(json_format.MessageToJson(response))
        fresh.replace(self.folder / f"{name}.json")

    def _bootstrap(self) -> bootstrap.Bootstrap:
        made = bootstrap.Bootstrap(node={"id": "edge", "cluster": "test"})
        made.admin.address.pipe.path = self._socket("admin")
        upstream = made.static_resources.clusters.add(name="upstream", connect_timeout={"seconds": 1})
        upstream.type = cluster.Cluster.STATIC
        upstream.load_assignment.cluster_name = "upstream"
        place = address.Address(pipe={"path": self._socket("upstream")})
        upstream.load_assignment.endpoints.add().lb_endpoints.add().endpoint.address.CopyFrom(place)
        made.static_resources.listeners.extend([self._listener("upstream", _upstream(self.shop.jwks())), self._edge()])
        return made

    def _edge(self) -> listener.Listener:
        scrub = early.HeaderMutation()
        scrub.mutations.extend(mutation.HeaderMutation(remove=h) for h in names.INTERNAL_HEADERS)
        manager = hcm.HttpConnectionManager(stat_prefix="edge", local_reply_config=errors.local_replies(messages=False))
        manager.early_header_mutation_extensions.add(name="scrub", typed_config=pack(scrub))
        host = manager.route_config.virtual_hosts.add(name="all", domains=["*"])
        route = host.routes.add(request_headers_to_remove=["authorization", "x-api-key", "api-key"])
        route.match.prefix = "/"
        route.route.cluster = "upstream"
        for name, kind in FILTERS.items():
            discovered = source.ExtensionConfigSource(type_urls=[f"type.googleapis.com/{kind}"])
            discovered.config_source.resource_api_version = source.ApiVersion.V3
            discovered.config_source.path_config_source.path = str(self.folder / f"{name}.json")
            manager.http_filters.add(name=name, config_discovery=discovered)
        return self._listener("edge", manager)

    def _listener(self, name: str, manager: hcm.HttpConnectionManager) -> listener.Listener:
        manager.http_filters.add(name="envoy.filters.http.router").typed_config.CopyFrom(pack(router.Router()))
        made = listener.Listener(name=name, address={"pipe": {"path": self._socket(name)}})
        made.filter_chains.add().filters.add(name="http", typed_config=pack(manager))
        return made

    def _socket(self, name: str) -> str:
        return str(self.folder / f"{name}.sock")

    def _serves(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()
        with socket.socket(socket.AF_UNIX) as probe:  # httpx leaves sockets open that it could not connect
            if probe.connect_ex(self._socket("edge")):
                return False
        return self.ask().status_code == 401


def _issuer(name: str, iss: str, audience: str, found: SecretRef | RemoteKeys, **more: Any) -> Issuer:
    given: dict[str, Any] = {
        "key_claim": "sub", "team_claim": None, "limits_claim": None, "models_claim": None, "teams": (),
        "otherwise": None, "models": None, "limits": (), "budgets": (), "named_limits": (),
    }  # fmt: skip
    return Issuer(name, iss, (audience,), found, **(given | more))


def _upstream(jwks: str) -> hcm.HttpConnectionManager:
    manager = hcm.HttpConnectionManager(stat_prefix="upstream")
    host = manager.route_config.virtual_hosts.add(name="all", domains=["*"])
    fetch = host.routes.add()
    fetch.match.path = "/jwks"
    fetch.direct_response.status = 200
    fetch.direct_response.body.inline_string = jwks
    echo = host.routes.add()
    echo.match.prefix = "/"
    echo.direct_response.status = 200
    said = (names.CLIENT, tokens.TOKEN_ID, "authorization", "x-api-key", "api-key")
    echo.direct_response.body_format.json_format.update({name: f"%REQ({name})%" for name in said})
    return manager


@pytest.fixture(scope="module")
def edge() -> Iterator[Edge]:
    with tempfile.TemporaryDirectory(prefix="hg-") as folder:
        made = Edge(Path(folder))
        try:
            made.start()
            yield made
        finally:
            made.stop()


def client(answer: httpx.Response) -> str:
    """Whom the provider was told, once the answer is checked to be one of the provider that saw no credential."""
    assert answer.status_code == 200, answer.text
    seen: Mapping[str, str | None] = answer.json()
    assert not any(seen[name] for name in ("authorization", "x-api-key", "api-key")), seen
    told = seen[names.CLIENT]
    assert told
    return told


def refused(answer: httpx.Response) -> bool:
    return answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"


def b64(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


PLACES = (("authorization", "Bearer "), ("x-api-key", ""), ("api-key", ""))


@pytest.mark.parametrize(("header", "before"), PLACES)
def test_an_issued_key_is_accepted_wherever_clients_put_keys(edge: Edge, header: str, before: str) -> None:
    made = edge.issue()
    for _ in range(2):  # verified, then remembered
        answer = edge.ask((header, before + made.secret))
        assert client(answer) == "alice;std;"
        assert answer.json()[tokens.TOKEN_ID] == made.jti


@pytest.mark.parametrize(("header", "before"), PLACES)
def test_static_keys_go_on_working(edge: Edge, header: str, before: str) -> None:
    for secret, name in edge.statics.items():
        assert client(edge.ask((header, before + secret))) == name
        assert refused(edge.ask((header, before + secret + "x")))


def test_nothing_passes_without_a_credential(edge: Edge) -> None:
    assert refused(edge.ask())
    for value in ("", "Bearer", "Bearer hg-", "Bearer hg-eyJ", "Bearer eyJ", "Bearer eyJ.eyJ.", "Basic eyJ"):
        assert refused(edge.ask(("authorization", value))), value


def test_a_client_cannot_say_who_it_is(edge: Edge) -> None:
    forged = [(name, "alice;std;") for name in names.INTERNAL_HEADERS]
    issuer = [("x-headgate-issuer", CORP), ("x-headgate-subject", "bob")]
    assert refused(edge.ask(*forged))
    assert refused(edge.ask(*issuer))
    assert client(edge.bearer("sk-static", *forged)) == "carol"
    assert client(edge.bearer("sk-static", *issuer)) == "carol"
    answer = edge.bearer(edge.issue("zoe").secret, *forged)
    assert client(answer) == "zoe;std;"
    assert answer.json()[tokens.TOKEN_ID] != "alice;std;"


def forgeries(edge: Edge, made: Issued) -> Iterable[tuple[str, str]]:
    header, claims, signature = made.secret.removeprefix("hg-").split(".")
    said = json.loads(base64.urlsafe_b64decode(claims + "=="))
    kid = edge.signing.current.kid
    other = SigningKeys.open(edge.folder / "other", edge.now).current
    public = json.dumps(edge.signing.public_jwks(edge.now)).encode()
    yield "another's key", issue(other, Request("alice", "alice"), edge.now, uuid4()).secret
    signed = jwt.encode(said, other.private, "ES256", {"kid": kid})
    yield "another's key under our kid", f"hg-{signed}"
    yield "our key under another's kid", "hg-" + jwt.encode(said, edge.signing.current.private, "ES256", {"kid": "x"})
    yield "no signature", f"hg-{b64({'alg': 'none', 'kid': kid})}.{claims}."
    yield "no signature, kept", f"hg-{b64({'alg': 'none', 'kid': kid})}.{claims}.{signature}"
    mac = f"{b64({'alg': 'HS256', 'typ': 'JWT', 'kid': kid})}.{claims}"
    yield "the public key as a secret", f"hg-{mac}.{b64(hmac.digest(public, mac.encode(), hashlib.sha256))}"
    yield "other claims", f"hg-{header}.{b64({**said, 'hg': 'root'})}.{signature}"
    yield (
        "another signature",
        f"hg-{header}.{claims}.{signature[:10]}{'A' if signature[10] != 'A' else 'B'}{signature[11:]}",
    )
    yield "a cut signature", made.secret[:-8]
    yield "an expired one", edge.issue(now=edge.now - timedelta(hours=2), expires=edge.now - timedelta(hours=1)).secret
    yield "one of tomorrow", edge.issue(now=edge.now + timedelta(days=1)).secret
    yield "another issuer", issue(edge.signing.current, Request("a", "a"), edge.now, uuid4(), "other").secret
    unnamed = {k: v for k, v in said.items() if k != "hg"}
    yield "no identity", "hg-" + jwt.encode(unnamed, edge.signing.current.private, "ES256", {"kid": kid})
    yield (
        "an empty identity",
        "hg-" + jwt.encode({**said, "hg": ""}, edge.signing.current.private, "ES256", {"kid": kid}),
    )
    yield "without the prefix", made.secret.removeprefix("hg-")


def test_a_forged_token_is_refused_everywhere(edge: Edge) -> None:
    made = edge.issue()
    assert client(edge.bearer(made.secret)) == "alice;std;"  # it is now among the remembered ones
    for what, secret in forgeries(edge, made):
        for header, before in PLACES:
            assert refused(edge.ask((header, before + secret))), (what, header)


def test_of_two_credentials_the_first_header_counts(edge: Edge) -> None:
    alice, zoe, bad = edge.issue().secret, edge.issue("zoe").secret, edge.issue().secret[:-8]
    assert client(edge.bearer(alice, ("x-api-key", zoe), ("api-key", zoe))) == "alice;std;"
    assert client(edge.bearer(alice, ("x-api-key", "sk-static"))) == "alice;std;"
    assert client(edge.bearer("sk-static", ("x-api-key", alice))) == "carol"
    assert client(edge.ask(("x-api-key", zoe), ("api-key", alice))) == "zoe;std;"
    assert client(edge.ask(("authorization", ""), ("x-api-key", zoe))) == "zoe;std;"
    assert client(edge.bearer(alice, ("x-api-key", bad))) == "alice;std;"
    assert refused(edge.bearer(bad, ("x-api-key", alice)))
    assert refused(edge.bearer(bad, ("x-api-key", "sk-static")))
    assert refused(edge.bearer("sk-wrong", ("x-api-key", alice)))
    outside = edge.corp.token(profile={"name": "bob"})
    assert client(edge.bearer(outside, ("x-api-key", alice))) == "corp:bob;std;"
    assert client(edge.bearer(alice, ("x-api-key", outside))) == "alice;std;"


def test_of_two_values_of_a_header_none_slips_through(edge: Edge) -> None:
    alice, zoe = edge.issue(), edge.issue("zoe")
    for first in (alice.secret, zoe.secret, "sk-static", "sk-wrong"):
        assert refused(edge.bearer(first, ("authorization", f"Bearer {zoe.secret}")))  # Envoy makes one value of both
    assert refused(edge.ask(("authorization", "Basic x"), ("authorization", f"Bearer {zoe.secret}")))
    answer = edge.ask(("x-api-key", alice.secret), ("x-api-key", zoe.secret))  # both are verified, the last one counts
    assert (client(answer), answer.json()[tokens.TOKEN_ID]) == ("zoe;std;", zoe.jti)
    assert client(edge.ask(("x-api-key", "sk-static"), ("x-api-key", zoe.secret))) == "zoe;std;"
    assert refused(edge.ask(("x-api-key", "sk-wrong"), ("x-api-key", zoe.secret[:-8])))
    assert refused(edge.ask(("x-api-key", alice.secret[:-8]), ("x-api-key", zoe.secret)))
    assert refused(edge.ask(("x-api-key", zoe.secret), ("x-api-key", alice.secret[:-8])))


def test_a_revoked_token_is_refused_within_a_second(edge: Edge) -> None:
    made, other = edge.issue(), edge.issue("zoe")
    assert client(edge.bearer(made.secret)) == "alice;std;"
    many = [str(uuid4()) for _ in range(1000)]
    try:
        edge.revoke(made.jti, *many)
        eventually(lambda: refused(edge.bearer(made.secret)), "the token is refused", 1)
        assert client(edge.bearer(other.secret)) == "zoe;std;"
        assert client(edge.bearer("sk-static")) == "carol"
        assert refused(edge.bearer(made.secret, ("x-api-key", "sk-static")))
        assert refused(edge.ask(("x-api-key", made.secret)))
    finally:
        edge.revoke()
    eventually(lambda: edge.bearer(made.secret).status_code == 200, "it counts again", 1)


def test_signing_keys_rotate_with_overlap(edge: Edge) -> None:
    old = edge.issue()
    before = edge.signing.current.kid
    edge.signing = edge.signing.rotate(edge.now, None)
    new = edge.issue("zoe")
    assert refused(edge.bearer(new.secret))
    edge.accept()
    eventually(lambda: edge.bearer(new.secret).status_code == 200, "the new key counts")
    assert client(edge.bearer(old.secret)) == "alice;std;"
    edge.signing = edge.signing.retire(before)
    edge.accept()
    eventually(lambda: refused(edge.bearer(old.secret)), "the old key is gone")
    assert client(edge.bearer(new.secret)) == "zoe;std;"


def test_the_largest_token_that_is_issued_is_accepted(edge: Edge) -> None:
    made = edge.issue(models=tuple(f"model-{number:04}" for number in range(180)))
    assert len(made.secret) > 3000
    assert client(edge.bearer(made.secret)) == "alice;std;"


def test_a_token_of_an_outside_issuer_becomes_an_identity(edge: Edge) -> None:
    for team, identity in (
        ("search", "search/corp:bob;std;"),
        ("100%", "100%/corp:bob;std;"),
        ("unlisted", "corp:bob;std;"),
        (None, "corp:bob;std;"),
    ):
        token = edge.corp.token(profile={"name": "bob"}, org={"team": team} if team else None)
        answer = edge.bearer(token)
        assert client(answer) == identity
        assert answer.json()[tokens.TOKEN_ID] is None


def test_an_issuer_whose_keys_are_fetched(edge: Edge) -> None:
    eventually(lambda: edge.bearer(edge.shop.token(team="till")).status_code == 200, "the keys are there")
    assert client(edge.bearer(edge.shop.token(team="till"))) == "till/shop:bob"
    assert refused(edge.bearer(edge.shop.token(team="other")))
    assert refused(edge.bearer(edge.shop.token()))


def test_what_an_outside_issuer_must_not_say(edge: Edge) -> None:
    named = {"profile": {"name": "bob"}}
    assert client(edge.bearer(edge.corp.token(**named))) == "corp:bob;std;"
    bad = {
        "no name": edge.corp.token(),
        "a claim of another kind": edge.corp.token(profile="bob"),
        "no end": edge.corp.token(**named, exp=None),
        "expired": edge.corp.token(**named, exp=time.time() - 600),
        "another audience": edge.corp.token(**named, aud="elsewhere"),
        "no audience": edge.corp.token(**named, aud=None),
        "another's name": edge.corp.token(**named, iss=SHOP, aud="shop"),
        "our name": edge.corp.token(iss="headgate", hg="root", jti="1"),
        "nobody's name": edge.corp.token(**named, iss="https://nobody.example"),
    }
    for name in (
        "",
        "a;big;",
        "search/x",
        "a b",
        "a,b",
        "a\nb",
        "a\r\nx-headgate-client: root",
        "é",
        "a" * 129,
        "%REQ(x)%",
    ):
        bad[f"the name {name!r}"] = edge.corp.token(profile={"name": name})
    for what, token in bad.items():
        assert refused(edge.bearer(token)), what
    assert refused(edge.bearer("hg-" + edge.corp.token(**named)))
    assert refused(edge.ask(("x-api-key", edge.corp.token(**named))))
