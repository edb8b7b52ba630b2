"""Access files: what they say, and what is wrong with them in a sentence that tells no digest."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.access.policy import Quota, read
from server.config import ConfigError
from server.names import MAX_TENANT, own, prefix, tenant
from tests.conftest import SmallModel
from tests.harness import start
from tests.server.access.doors import entry

JWT = '[jwt]\njwks = "keys.json"\nissuer = "i"\naudience = "a"\n'


def said(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "access.toml"
    file.write_text(text)
    return file


def test_a_file_says_tokens_issuer_and_quotas(tmp_path: Path) -> None:
    text = (
        entry("a", ["step"], "acme", "expires = 2099-01-01T00:00:00Z")
        + JWT
        + "[tenants.acme]\nsessions = 5\n[others]\nsteps_per_second = 2.5\n"
    )
    policy = read(said(tmp_path, text))
    assert (policy.tokens[0].name, policy.tokens[0].roles) == ("a", ("step",))
    assert policy.tokens[0].until > 4e9
    assert policy.jwt is not None
    assert policy.jwt.jwks == str(tmp_path / "keys.json")
    assert policy.quota("acme") == Quota(sessions=5)
    assert policy.quota("anyone") == Quota(steps_per_second=2.5)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "neither a token nor"),
        ("tokens = 5", "tokens: Input should be a valid tuple"),
        ("[[tokens]", "Expected"),
        (entry("a", ["root"]), "tokens.0.roles.0: Input should be"),
        (entry("a", []), "tokens.0.roles: Tuple should have at least 1 item"),
        (entry("a", tenant="a/b"), "tokens.0.tenant"),
        (entry("a", tenant="a\\u001fb"), "tokens.0.tenant"),
        (entry("a", tenant="a" * (MAX_TENANT + 1)), "tokens.0.tenant"),
        (entry("a", more="expires = 2099-01-01"), "tokens.0.expires"),
        (entry("a", more="extra = 1"), "tokens.0.extra: Extra inputs are not permitted"),
        (entry("a") + entry("a"), "two tokens have the same sha256"),
        (entry("a").replace('sha256 = "', 'sha256 = "zz'), "tokens.0.sha256"),
        (entry("a") + "[tenants.x]\nsessions = 0", "tenants.x.sessions"),
        (entry("a") + "[others]\nbytes_per_second = inf", "others.bytes_per_second"),
        (JWT.replace("keys.json", "http://elsewhere/keys"), "jwt.jwks must be https://"),
        (JWT + 'algorithms = ["HS256"]', "jwt.algorithms.0"),
        (JWT + 'algorithms = ["none"]', "jwt.algorithms.0"),
    ],
)
def test_what_is_wrong_is_told_by_place(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(said(tmp_path, text))
    assert told in str(caught.value)
    assert "access.toml" in str(caught.value)
    assert entry("a").split('sha256 = "')[1][:64] not in str(caught.value)


def test_a_server_does_not_start_with_a_file_that_it_cannot_use(
    small: SmallModel, tmp_path: Path
) -> None:
    process, log = start(small.repository, "--access", str(said(tmp_path, "tokens = 5")))
    assert process.wait(30) == 2
    assert "tidegate-server: access " in log.read_text()
    assert "Traceback" not in log.read_text()


TENANTS = st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True)


@given(TENANTS, st.text(), TENANTS, st.text())
def test_no_two_callers_sessions_have_one_name(a: str, x: str, b: str, y: str) -> None:
    first, second = prefix(a) + x, prefix(b) + y
    assert (first == second) == ((a, x) == (b, y))
    assert (tenant(first), own(first)) == (a, x)
