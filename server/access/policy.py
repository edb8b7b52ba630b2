"""The access file, in TOML: tokens, where JSON web tokens come from, and tenants' quotas.

```toml
[[tokens]]
name = "billing"                 # whose it is, for the log
sha256 = "7c4a8d09..."           # of the token, in hexadecimal digits
tenant = "acme"                  # whose sessions it works on; left out: ids are as they are
roles = ["step", "inspect"]
expires = 2027-06-01T00:00:00Z   # left out: never

[jwt]
jwks = "https://login.example/keys"   # or a file, beside this one
issuer = "https://login.example/"
audience = "tidegate"

[tenants.acme]                   # every server counts by itself
sessions = 5000
steps_per_second = 20000
bytes_per_second = 10_000_000

[others]                         # the same, for each tenant that is not named
sessions = 100
```
"""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from server.access.rules import ROLES
from server.config import ConfigError
from server.names import MAX_TENANT

TENANT: Final = rf"^[A-Za-z0-9._-]{{1,{MAX_TENANT}}}$"

Tenant = Annotated[str, StringConstraints(pattern=TENANT)]
Role = Literal["step", "inspect", "admin"]
Limit = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]
"""Those with a public key: a server that only checks tokens could make none."""
assert set(Role.__args__) == ROLES  # type: ignore[attr-defined]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Token(_Part):
    """A token that is known by its digest."""

    name: Annotated[str, StringConstraints(pattern=r"^[!-~]{1,128}$")]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    tenant: Tenant | Literal[""] = ""
    roles: Annotated[tuple[Role, ...], Field(min_length=1)]
    expires: AwareDatetime | None = None

    @property
    def until(self) -> float:
        """Seconds since the epoch until which it is good."""
        return math.inf if self.expires is None else self.expires.timestamp()


class Jwt(_Part):
    """Whose JSON web tokens are taken (RFC 7519), and which claims tell what of them."""

    jwks: Annotated[str, Field(min_length=1)]
    issuer: Annotated[str, Field(min_length=1)]
    audience: Annotated[str, Field(min_length=1)]
    algorithms: Annotated[tuple[Algorithm, ...], Field(min_length=1)] = ("RS256", "ES256", "EdDSA")
    tenant_claim: str = "tenant"
    """"": its callers have no tenants."""
    roles_claim: Annotated[str, Field(min_length=1)] = "roles"
    refresh_seconds: Annotated[float, Field(ge=1, le=86_400)] = 300.0

    @property
    def remote(self) -> bool:
        """Whether the keys come over the network."""
        return self.jwks.startswith("https://")


class Quota(_Part):
    """What a tenant may use of one server; None: as much as there is."""

    sessions: Annotated[int, Field(gt=0)] | None = None
    steps_per_second: Limit | None = None
    bytes_per_second: Limit | None = None


class Policy(_Part):
    """An access file."""

    tokens: tuple[Token, ...] = ()
    jwt: Jwt | None = None
    tenants: dict[Tenant, Quota] = Field(default_factory=dict)
    others: Quota = Quota()

    @model_validator(mode="after")
    def _of_use(self) -> Policy:
        if not self.tokens and self.jwt is None:
            raise ValueError("there is neither a token nor [jwt], so nobody could call")
        digests = [each.sha256 for each in self.tokens]
        if len(digests) > len(set(digests)):
            raise ValueError("two tokens have the same sha256")
        return self

    def quota(self, tenant: str) -> Quota:
        """A tenant's quota."""
        return self.tenants.get(tenant, self.others)


def read(file: Path) -> Policy:
    """The policy that a file says.

    Raises:
        ConfigError: it cannot be read or is none; the message names the place, and no digest.
    """
    try:
        policy = Policy.model_validate(tomllib.loads(file.read_text("utf-8")))
    except OSError as error:
        raise ConfigError(f"access {file}: {error.strerror}") from None
    except ValidationError as error:
        told = "; ".join(map(_sentence, error.errors(include_input=False, include_url=False)))
        raise ConfigError(f"access {file}: {told}") from None
    except ValueError as error:  # no TOML, or no UTF-8
        raise ConfigError(f"access {file}: {error}") from None
    if (jwt := policy.jwt) is not None and not jwt.remote:
        if "://" in jwt.jwks:
            raise ConfigError(f"access {file}: jwt.jwks must be https:// or a file")
        jwt = jwt.model_copy(update={"jwks": str(file.parent / jwt.jwks)})
        policy = policy.model_copy(update={"jwt": jwt})
    return policy


def _sentence(problem: Any) -> str:
    place = ".".join(map(str, problem["loc"]))
    said = problem["msg"].removeprefix("Value error, ")
    return f"{place}: {said}" if place else str(said)
