"""Signed bundles: made by our command or by openssl, refused by name where no trusted key did."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from server.bundle.repository import Bundle, find, load
from server.bundle.signature import KeyProblem, read_trusted, verifier
from server.errors import BadModel
from tests.server.core.parts import make_bundle
from training.__main__ import main

PRIVATE = (
    serialization.Encoding.PEM,
    serialization.PrivateFormat.PKCS8,
    serialization.NoEncryption(),
)
PUBLIC = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def make_key(folder: Path, name: str) -> tuple[Path, Path]:
    """A private key's file and its public half's."""
    key = Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(*PRIVATE))
    public.write_bytes(key.public_key().public_bytes(*PUBLIC))
    return private, public


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_bundle(tmp_path / "models")
    return tmp_path / "models" / "small" / "1"


def load_trusting(folder: Path, keys: Path) -> Bundle:
    repository = folder.parent.parent
    (entry,) = find(repository)
    return load(entry, repository, verify=verifier(keys))


def test_a_signed_bundle_is_loaded_by_whoever_trusts_the_key(folder: Path, tmp_path: Path) -> None:
    private, public = make_key(tmp_path, "ours")
    assert main(["sign", str(folder), "--key", str(private)]) == 0
    assert load_trusting(folder, public).manifest.name == "small"


def test_what_openssl_signs_is_as_good(folder: Path, tmp_path: Path) -> None:
    """The commands of docs/security.md."""
    key, public, made = tmp_path / "key.pem", tmp_path / "key.pub", tmp_path / "made"
    for words in (
        ["genpkey", "-algorithm", "ed25519", "-out", str(key)],
        ["pkey", "-in", str(key), "-pubout", "-out", str(public)],
        ["pkeyutl", "-sign", "-rawin", "-inkey", str(key), "-in", str(folder / "model.json"),
         "-out", str(made)],
    ):  # fmt: skip
        subprocess.run(["openssl", *words], check=True, timeout=60)
    (folder / "model.json.sig").write_bytes(base64.encodebytes(made.read_bytes()))
    assert load_trusting(folder, public).manifest.name == "small"


def _unsigned(folder: Path) -> None:
    (folder / "model.json.sig").unlink()


def _changed(folder: Path) -> None:
    file = folder / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"description": "other"}))


def _another_file(folder: Path) -> None:
    (folder / "step.onnx").write_bytes((folder / "single.onnx").read_bytes())


def _no_base64(folder: Path) -> None:
    (folder / "model.json.sig").write_bytes(b"\xff\x00")


def _short(folder: Path) -> None:
    (folder / "model.json.sig").write_bytes(base64.b64encode(b"short"))


def _large(folder: Path) -> None:
    (folder / "model.json.sig").write_bytes(b"A" * 2000)


SPOILED: dict[str, tuple[Callable[[Path], None], str]] = {
    "no signature": (_unsigned, r"small/1 is not signed: there is no model\.json\.sig"),
    "another manifest": (_changed, r"model\.json\.sig is not model\.json's signature by any"),
    "another file": (_another_file, r"small/1/step\.onnx is corrupt"),
    "no base64": (_no_base64, r"model\.json\.sig is no signature in base64"),
    "too short": (_short, r"model\.json\.sig holds 5 bytes, and a signature has 64"),
    "too long": (_large, r"model\.json\.sig has 2,000 bytes, more than the 1,024"),
}


@pytest.mark.parametrize("how", SPOILED)
def test_a_bundle_that_is_not_as_it_was_signed_is_refused_by_name(
    folder: Path, tmp_path: Path, how: str
) -> None:
    private, public = make_key(tmp_path, "ours")
    assert main(["sign", str(folder), "--key", str(private)]) == 0
    spoil, says = SPOILED[how]
    spoil(folder)
    with pytest.raises(BadModel, match=says):
        load_trusting(folder, public)


def test_keys_change_while_the_server_runs(folder: Path, tmp_path: Path) -> None:
    (old, old_public), (new, new_public) = (make_key(tmp_path, name) for name in ("old", "new"))
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(old_public.read_bytes())
    verify = verifier(trusted)
    repository = folder.parent.parent
    (entry,) = find(repository)
    main(["sign", str(folder), "--key", str(new)])
    with pytest.raises(BadModel, match="by any trusted key"):
        load(entry, repository, verify=verify)
    trusted.write_bytes(old_public.read_bytes() + b"# the new one\n" + new_public.read_bytes())
    load(entry, repository, verify=verify)
    main(["sign", str(folder), "--key", str(old)])
    load(entry, repository, verify=verify)
    trusted.write_bytes(new_public.read_bytes())
    with pytest.raises(BadModel, match="by any trusted key"):
        load(entry, repository, verify=verify)
    trusted.unlink()
    with pytest.raises(BadModel, match=r"small/1 cannot be trusted: .*trusted\.pem cannot be read"):
        load(entry, repository, verify=verify)


def test_files_that_hold_no_public_keys_are_refused(tmp_path: Path) -> None:
    private, public = make_key(tmp_path, "ours")
    keys = tmp_path / "keys.pem"
    other = rsa.generate_private_key(65537, 1024).public_key().public_bytes(*PUBLIC)
    for content, says in (
        (b"", "must hold public keys"),
        (private.read_bytes(), "holds a private key, which a server must not have"),
        (other, "holds a key that is not Ed25519"),
        (public.read_bytes().replace(b"MC", b"??"), "holds a key that is malformed"),
        (public.read_bytes() + b"-----BEGIN CERTIFICATE-----\n", "and nothing else"),
    ):
        keys.write_bytes(content)
        with pytest.raises(KeyProblem, match=says):
            read_trusted(keys)


def test_the_command_signs_only_what_is_whole_and_says_what_is_wrong(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    private, public = make_key(tmp_path, "ours")
    for key, says in ((public, "holds no private key"), (tmp_path / "none", "cannot be read")):
        assert main(["sign", str(folder), "--key", str(key)]) == 2
        assert says in capsys.readouterr().err
    (folder / "read.onnx").write_bytes(b"other")
    assert main(["sign", str(folder), "--key", str(private)]) == 2
    assert "read.onnx is corrupt" in capsys.readouterr().err
    assert not (folder / "model.json.sig").exists()


def test_verify_tells_whether_a_trusted_key_signed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    private, public = make_key(tmp_path, "ours")
    words = ["verify", str(folder), "--device", "cpu", "--trusted-keys", str(public)]
    assert main(words) == 2
    assert "is not signed" in capsys.readouterr().err
    main(["sign", str(folder), "--key", str(private)])
    assert main(words) == 0
    assert "ok   signature" in capsys.readouterr().out
