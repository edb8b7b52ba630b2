"""JSON web tokens with real keys: whose are taken, what they say, and keys that change."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from server.access import keys
from server.access.access import Access
from server.access.caller import Caller
from server.errors import NotAllowed, Unauthenticated
from server.metrics import Metrics

STEP, LIST = "/tidegate.v1.Tidegate/Step", "/tidegate.v1.Tidegate/List"
ISSUER, AUDIENCE = "https://login.test/", "tidegate"
RSA = rsa.generate_private_key(65537, 2048)
OTHER = rsa.generate_private_key(65537, 2048)
EC, ED = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()
ALGORITHMS: dict[str, tuple[Any, type[jwt.algorithms.Algorithm]]] = {
    "RS256": (RSA, jwt.algorithms.RSAAlgorithm),
    "ES256": (EC, jwt.algorithms.ECAlgorithm),
    "EdDSA": (ED, jwt.algorithms.OKPAlgorithm),
}


def published(**by_id: Any) -> str:
    """A JWKS of the public halves."""
    found = []
    for key_id, private in by_id.items():
        (algorithm,) = [a for _, (key, a) in ALGORITHMS.items() if type(key) is type(private)]
        said = json.loads(algorithm.to_jwk(private.public_key()))
        found.append(said | {"kid": key_id, "use": "sig"})
    return json.dumps({"keys": found})


def signed(key: Any = RSA, algorithm: str = "RS256", kid: str | None = "r", **claims: Any) -> str:
    """A token that is good but for what `claims` say otherwise; None leaves one out."""
    said = {
        "iss": ISSUER, "aud": AUDIENCE, "exp": time.time() + 60, "sub": "service-7",
        "tenant": "acme", "roles": ["step"],
    } | claims  # fmt: skip
    said = {name: value for name, value in said.items() if value is not None}
    return jwt.encode(said, key, algorithm, {"kid": kid} if kid else None)


@pytest.fixture
def access(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Access]:
    """The door of an issuer with a key of each kind."""
    monkeypatch.setattr(keys, "LEAST_PAUSE", 0.01)
    (tmp_path / "keys.json").write_text(published(r=RSA, e=EC, d=ED))
    file = tmp_path / "access.toml"
    file.write_text(f'[jwt]\njwks = "keys.json"\nissuer = "{ISSUER}"\naudience = "{AUDIENCE}"\n')
    made = Access(file, Metrics())
    assert made._keys is not None
    assert made._keys.fetched.wait(20)
    yield made
    made.stop()


def enter(access: Access, token: str, method: str = STEP) -> Caller:
    caller = access.enter(method, [("authorization", f"Bearer {token}")])
    assert caller is not None
    return caller


@pytest.mark.parametrize(("algorithm", "kid"), [("RS256", "r"), ("ES256", "e"), ("EdDSA", "d")])
def test_a_good_token_says_who_calls(access: Access, algorithm: str, kid: str) -> None:
    token = signed(ALGORITHMS[algorithm][0], algorithm, kid)
    caller = enter(access, token)
    assert (caller.name, caller.tenant, set(caller.roles)) == ("service-7", "acme", {"step"})
    assert enter(access, token) is caller  # remembered
    with pytest.raises(NotAllowed):
        enter(access, token, LIST)


@pytest.mark.parametrize(
    ("claims", "roles"),
    [
        ({"roles": "step inspect other"}, {"step", "inspect"}),
        ({"roles": ["admin", 5, None]}, {"admin"}),
        ({"roles": {"step": True}}, set()),
        ({"roles": None}, set()),
    ],
)
def test_roles_are_a_list_or_a_text(access: Access, claims: Any, roles: set[str]) -> None:
    token = signed(**claims)
    if "step" in roles:
        assert enter(access, token).roles == roles
    else:
        with pytest.raises(NotAllowed):
            enter(access, token)


BAD = {
    "of the past": signed(exp=time.time() - 60),
    "of the future": signed(nbf=time.time() + 600),
    "without an end": signed(exp=None),
    "of another issuer": signed(iss="https://other.test/"),
    "for another audience": signed(aud="elsewhere"),
    "for nobody": signed(aud=None),
    "signed by another": signed(OTHER),
    "of an unknown key": signed(kid="unknown"),
    "of no key": signed(kid=None),
    "of the wrong kind of key": signed(EC, "ES256", "r"),
    "without a tenant": signed(tenant=None),
    "of a tenant that is no text": signed(tenant=["acme"]),
    "of a tenant that parts names": signed(tenant="acme\x1fx"),
    "of an empty tenant": signed(tenant=""),
    "of a tenant beyond ASCII": signed(tenant="acmé"),
    "no token": "a.b.c",
    "nothing": "",
    "too long": signed(more="x" * 9_000),
    "binary": "\xff.\xfe.\xfd",
}


@pytest.mark.parametrize("what", BAD)
def test_a_token_that_is_not_good_lets_nobody_in(access: Access, what: str) -> None:
    with pytest.raises(Unauthenticated):
        enter(access, BAD[what])


def unsigned(algorithm: str, signature: bytes = b"") -> str:
    """A token whose header says what it likes."""
    _, claims, _ = signed().split(".")
    said = base64.urlsafe_b64encode(json.dumps({"alg": algorithm, "kid": "r"}).encode())
    tail = base64.urlsafe_b64encode(signature).rstrip(b"=").decode()
    return f"{said.rstrip(b'=').decode()}.{claims}.{tail}"


@pytest.mark.parametrize("algorithm", ["none", "None", "HS256", "RS512"])
def test_a_token_does_not_choose_how_it_is_checked(access: Access, algorithm: str) -> None:
    public = RSA.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    body = unsigned(algorithm).rpartition(".")[0].encode()
    forged = unsigned(algorithm, hmac.digest(public, body, hashlib.sha256))
    for token in (unsigned(algorithm), forged):
        with pytest.raises(Unauthenticated):
            enter(access, token)


def test_a_key_that_is_new_is_found_and_one_that_is_gone_no_more(
    access: Access, tmp_path: Path
) -> None:
    token = signed(OTHER, kid="new")
    with pytest.raises(Unauthenticated):
        enter(access, token)
    (tmp_path / "keys.json").write_text(published(new=OTHER))
    for _ in range(1000):  # it is looked for since the token has named it
        try:
            assert enter(access, token).name == "service-7"
            break
        except Unauthenticated:
            time.sleep(0.01)
    else:
        raise AssertionError("the key was not found")
    with pytest.raises(Unauthenticated):
        enter(access, signed())


def test_a_token_that_runs_out_is_refused_though_it_is_remembered(access: Access) -> None:
    token = signed(exp=time.time() + 1)
    caller = enter(access, token)
    while caller.expires > time.time():
        time.sleep(0.05)
    with pytest.raises(Unauthenticated, match="expired"):
        enter(access, token)
    with pytest.raises(Unauthenticated, match="expired"):
        caller.check()  # as its streams do


def test_the_only_key_need_not_be_named(access: Access, tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text(published(only=RSA))
    with pytest.raises(Unauthenticated):
        enter(access, signed(kid="gone"))
    for _ in range(1000):
        try:
            enter(access, signed(kid=None))
            return
        except Unauthenticated:
            time.sleep(0.01)
    raise AssertionError("the keys were not read again")
