"""Who vouches for a bundle: a signature (Ed25519) of its manifest, which names each file's digest.

It is detached, in `model.json.sig`: 64 bytes in base64. It is over the bytes of `model.json` as
they are, so any tool can make one (`openssl pkeyutl -sign -rawin`).
"""

from __future__ import annotations

import base64
import re
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    load_pem_private_key,
    load_pem_public_key,
)

from server.bundle.repository import KeyProblem as KeyProblem  # callers know it from here
from server.bundle.repository import Verify

LENGTH = 64
_PUBLIC = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)


class Untrusted(ValueError):
    """No trusted key made the signature; the message says so, as the end of a sentence."""


def verifier(path: Path) -> Verify:
    """Looks at signatures. The keys are read anew each time, so that one can be added or withdrawn.

    Raises:
        KeyProblem: the file cannot be used even now.
    """
    read_trusted(path)
    return lambda manifest, made: check(manifest, made, read_trusted(path))


def read_trusted(path: Path) -> tuple[Ed25519PublicKey, ...]:
    """The public keys of a PEM file, one after the other.

    Raises:
        KeyProblem: there is none, one is not Ed25519, or the file cannot be read.
    """
    text = _content(path)
    if b"PRIVATE KEY" in text:
        raise KeyProblem(f"{path} holds a private key, which a server must not have")
    found = []
    for each in _PUBLIC.findall(text):
        try:
            key = load_pem_public_key(each)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise KeyProblem(f"{path} holds a key that is malformed") from error
        if not isinstance(key, Ed25519PublicKey):
            raise KeyProblem(f"{path} holds a key that is not Ed25519")
        found.append(key)
    if not found or len(found) != text.count(b"-----BEGIN"):
        raise KeyProblem(f"{path} must hold public keys (PEM) and nothing else")
    return tuple(found)


def read_private(path: Path) -> Ed25519PrivateKey:
    """The private key of a PEM file without a password.

    Raises:
        KeyProblem: it is none, is not Ed25519, has a password, or cannot be read.
    """
    text = _content(path)
    try:
        key = load_pem_private_key(text, password=None)
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:
        raise KeyProblem(f"{path} holds no private key (PEM, without a password)") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyProblem(f"{path} holds a key that is not Ed25519")
    return key


def sign(manifest: bytes, key: Ed25519PrivateKey) -> bytes:
    """What `model.json.sig` holds."""
    return base64.b64encode(key.sign(manifest)) + b"\n"


def check(manifest: bytes, signature: bytes, trusted: tuple[Ed25519PublicKey, ...]) -> None:
    """See that a trusted key signed the manifest.

    Raises:
        Untrusted: none did, or the signature is malformed.
    """
    try:
        made = base64.b64decode(b"".join(signature.split()), validate=True)
    except ValueError as error:
        raise Untrusted("is no signature in base64") from error
    if len(made) != LENGTH:
        raise Untrusted(f"holds {len(made)} bytes, and a signature has {LENGTH}")
    for key in trusted:
        try:
            key.verify(made, manifest)
        except InvalidSignature:
            continue
        return
    raise Untrusted("is not model.json's signature by any trusted key")


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise KeyProblem(f"{path} cannot be read: {error.strerror}") from error
