"""Signing keys, on a real folder."""

import base64
import json
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from controlplane.keys.signing import SigningError, SigningKeys

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "keys"


def kids(signing: SigningKeys, now: datetime = NOW) -> list[str]:
    return [key["kid"] for key in signing.public_jwks(now)["keys"]]


def test_the_first_key_is_made_and_found_again(folder: Path) -> None:
    made = SigningKeys.open(folder, NOW)
    again = SigningKeys.open(folder, NOW + HOUR)
    assert again == made
    assert again.public_jwks(NOW) == made.public_jwks(NOW)
    assert again.current.private.private_numbers() == made.current.private.private_numbers()
    assert (made.current.created, made.current.until) == (NOW, None)


def test_only_the_owner_may_read(folder: Path) -> None:
    SigningKeys.open(folder, NOW).rotate(NOW, HOUR)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_a_key_set_holds_public_halves_only(folder: Path) -> None:
    (key,) = SigningKeys.open(folder, NOW).public_jwks(NOW)["keys"]
    assert set(key) == {"kty", "crv", "x", "y", "kid", "alg", "use"}
    assert (key["kty"], key["crv"], key["alg"], key["use"]) == ("EC", "P-256", "ES256", "sig")
    assert len(base64.urlsafe_b64decode(key["x"] + "=")) == len(base64.urlsafe_b64decode(key["y"] + "=")) == 32


def test_no_representation_holds_private_material(folder: Path) -> None:
    signing = SigningKeys.open(folder, NOW)
    secret = signing.current.private.private_numbers().private_value
    for text in (repr(signing), str(signing), repr(signing.current), f"{signing.keys}"):
        assert "PrivateKey" not in text
        assert str(secret) not in text
        assert f"{secret:x}" not in text


def test_a_rotated_key_is_accepted_until_its_overlap_ends(folder: Path) -> None:
    first = SigningKeys.open(folder, NOW)
    second = first.rotate(NOW, HOUR)
    assert second.current.kid != first.current.kid
    assert kids(second) == [second.current.kid, first.current.kid]
    assert second.next_change(NOW) == NOW + HOUR
    assert kids(second, NOW + HOUR) == [second.current.kid]
    assert second.next_change(NOW + HOUR) is None
    assert SigningKeys.open(folder, NOW) == second


def test_what_is_over_is_deleted_with_the_next_rotation(folder: Path) -> None:
    first = SigningKeys.open(folder, NOW)
    third = first.rotate(NOW, HOUR).rotate(NOW + 2 * HOUR, timedelta(0))
    assert [key.kid for key in third.keys] == [third.current.kid]
    assert [path.stem for path in folder.glob("*.pem")] == [third.current.kid]


def test_without_an_overlap_a_key_is_accepted_until_it_is_retired(folder: Path) -> None:
    first = SigningKeys.open(folder, NOW)
    second = first.rotate(NOW, None)
    assert kids(second, NOW + 100_000 * HOUR) == [second.current.kid, first.current.kid]
    assert second.next_change(NOW) is None
    retired = second.retire(first.current.kid)
    assert kids(retired) == [second.current.kid]
    assert SigningKeys.open(folder, NOW) == retired
    assert not (folder / f"{first.current.kid}.pem").exists()


def test_the_key_that_signs_is_not_retired(folder: Path) -> None:
    signing = SigningKeys.open(folder, NOW)
    with pytest.raises(ValueError, match="rotate first"):
        signing.retire(signing.current.kid)
    with pytest.raises(KeyError):
        signing.retire("unknown")


def test_a_negative_overlap_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="negative"):
        SigningKeys.open(folder, NOW).rotate(NOW, -HOUR)


def test_those_who_begin_at_once_agree(folder: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(lambda _: SigningKeys.open(folder, NOW), range(16)))
    assert len({signing.current.kid for signing in opened}) == 1


def test_rotations_at_once_lose_no_key(folder: Path) -> None:
    first = SigningKeys.open(folder, NOW)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: first.rotate(NOW, HOUR), range(8)))
    assert len(kids(SigningKeys.open(folder, NOW))) == 9


@pytest.mark.parametrize("which", ["folder", "index", "key"])
def test_what_others_may_read_is_refused(folder: Path, which: str) -> None:
    signing = SigningKeys.open(folder, NOW)
    path = {"folder": folder, "index": folder / "index.json", "key": folder / f"{signing.current.kid}.pem"}[which]
    path.chmod(path.stat().st_mode | 0o040)
    with pytest.raises(SigningError, match=r"chmod go="):
        SigningKeys.open(folder, NOW)


def _pem(private: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"nothing", "is not a private key"),
        (_pem(ed25519.Ed25519PrivateKey.generate()), "is not a key on the curve"),
        (_pem(ec.generate_private_key(ec.SECP384R1())), "is not a key on the curve"),
        (_pem(ec.generate_private_key(ec.SECP256R1())), "holds another key"),
        (None, "is missing"),
    ],
)
def test_a_damaged_key_is_refused(folder: Path, content: bytes | None, what: str) -> None:
    path = folder / f"{SigningKeys.open(folder, NOW).current.kid}.pem"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(SigningError, match=what) as caught:
        SigningKeys.open(folder, NOW)
    assert "BEGIN" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"keys": []}', '{"keys": [{"kid": "../x", "until": null}]}'])
def test_a_damaged_index_is_refused(folder: Path, content: str) -> None:
    SigningKeys.open(folder, NOW)
    (folder / "index.json").write_text(content)
    with pytest.raises(SigningError, match=r"Restore the folder"):
        SigningKeys.open(folder, NOW)


def test_a_lost_index_does_not_begin_anew(folder: Path) -> None:
    SigningKeys.open(folder, NOW)
    (folder / "index.json").unlink()
    with pytest.raises(SigningError, match="missing, but there are keys"):
        SigningKeys.open(folder, NOW)


def test_a_crash_before_the_index_leaves_the_old_keys(folder: Path) -> None:
    before = SigningKeys.open(folder, NOW)
    stray = folder / "stray.pem"
    stray.write_bytes(_pem(ec.generate_private_key(ec.SECP256R1())))
    assert SigningKeys.open(folder, NOW) == before
    before.rotate(NOW, HOUR)
    assert not stray.exists()


def test_the_index_holds_no_key(folder: Path) -> None:
    SigningKeys.open(folder, NOW)
    (entry,) = json.loads((folder / "index.json").read_text())["keys"]
    assert set(entry) == {"kid", "created", "until"}


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SigningError, match=r"cannot use the signing keys"):
        SigningKeys.open(tmp_path / "file" / "keys", NOW)
