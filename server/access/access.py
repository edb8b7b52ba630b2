"""The door: a call's method and metadata to its caller, or why it may not be made.

Both transports ask here, before anything of a call is read. What a token says is remembered, so
that a further call with it costs a look-up. The file is read again when it changes.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import jwt

from server.access.caller import EXPIRED, Caller
from server.access.keys import Keys
from server.access.policy import TENANT, Policy, Token, read
from server.access.policy import Jwt as JwtPolicy
from server.access.rules import ANYBODY, ROLES, roles
from server.access.tenants import Tenants
from server.errors import NotAllowed, ServingError, Unauthenticated
from server.metrics import Metrics
from server.watched import Watched

log = logging.getLogger(__name__)

HEADER: Final = "authorization"
SCHEME: Final = "bearer "
LONGEST_TOKEN: Final = 8_192
MOST_KNOWN: Final = 10_000  # JSON web tokens whose signature need not be checked again
LEEWAY: Final = 5.0  # seconds by which an issuer's clock may be ahead

Metadata = Iterable[tuple[str, str | bytes]]


class Access:
    """Who may call, as a file says. Any thread may ask.

    Raises:
        ConfigError: the file cannot be used.
    """

    def __init__(self, file: Path, metrics: Metrics) -> None:
        self._file, self._metrics = file, metrics
        self._lock = threading.Lock()
        self._watched = Watched([file], self._read, "who may call stays as it was")
        self._policy = read(file)
        self.tenants = Tenants(self._policy, metrics)
        self._tokens: dict[bytes, Caller] = {}
        self._jwts: OrderedDict[bytes, Caller] = OrderedDict()
        self._keys: Keys | None = None
        self._take_up(Policy.model_construct(), self._policy)

    def look(self) -> None:
        """Read the file again, if it has changed. Each call looks; where there are none, as where
        callers have but streams, somebody else must."""
        self._watched.look()

    def enter(self, method: str, metadata: Metadata) -> Caller | None:
        """Whose call it is; None where anybody may make it.

        Raises:
            Unauthenticated: it says not, or not truly, whose it is.
            NotAllowed: the caller may not make it.
        """
        wanted = roles(method)
        if wanted is ANYBODY:
            return None
        try:
            caller = self._who(_token(metadata))
            if caller.roles.isdisjoint(wanted):
                raise NotAllowed(method, sorted(wanted))
            return caller
        except ServingError as error:
            self._metrics.refused.labels(error.reason.lower()).inc()
            log.info("refused %s: %s", method, error)
            raise

    def stop(self) -> None:
        """Look for no more keys."""
        if self._keys is not None:
            self._keys.stop()

    def _who(self, token: str) -> Caller:
        self.look()
        digest = hashlib.sha256(token.encode()).digest()
        caller = self._tokens.get(digest) or self._jwts.get(digest)
        if caller is None:
            caller = self._read_jwt(token, digest)
        caller.check()
        return caller

    def _read_jwt(self, token: str, digest: bytes) -> Caller:
        policy, keys = self._policy.jwt, self._keys
        if policy is None or keys is None or token.count(".") != 2:
            raise Unauthenticated("the token is not known")
        claims = _claims(token, policy, keys)
        tenant = _tenant(claims, policy)
        name = claims.get("sub")
        caller = Caller(
            name=name[:128] if isinstance(name, str) and name else "jwt",
            tenant=tenant,
            roles=_roles(claims.get(policy.roles_claim)),
            expires=float(claims["exp"]),
            usage=self.tenants.of(tenant),
        )
        with self._lock:
            self._jwts[digest] = caller
            while len(self._jwts) > MOST_KNOWN:
                self._jwts.popitem(last=False)
        return caller

    def _read(self) -> None:
        with self._lock:
            self._take_up(self._policy, read(self._file))
        log.info("who may call is as %s says now", self._file)

    def _take_up(self, before: Policy, policy: Policy) -> None:
        former, self._policy = self._tokens, policy
        self.tenants.change(policy)
        said = {bytes.fromhex(each.sha256): each for each in policy.tokens}
        known = {bytes.fromhex(each.sha256): each for each in before.tokens}
        same = {digest for digest, each in said.items() if known.get(digest) == each}
        made = {digest: self._caller(each) for digest, each in said.items() if digest not in same}
        self._tokens = made | {digest: former[digest] for digest in same}
        for digest in former.keys() - same:  # streams that it opened end
            former[digest].revoke()
        if policy.jwt != before.jwt:
            self._change_issuer(policy.jwt)

    def _caller(self, token: Token) -> Caller:
        usage = self.tenants.of(token.tenant)
        return Caller(token.name, token.tenant, frozenset(token.roles), token.until, usage)

    def _change_issuer(self, issuer: JwtPolicy | None) -> None:
        known, self._jwts = self._jwts, OrderedDict()
        for caller in known.values():
            caller.revoke()
        self.stop()
        self._keys = None if issuer is None else Keys(issuer)
        if self._keys is not None:
            self._keys.start()


def _token(metadata: Metadata) -> str:
    for name, value in metadata:
        if name == HEADER and isinstance(value, str):
            if value[: len(SCHEME)].lower() != SCHEME or len(value) > LONGEST_TOKEN:
                break
            return value[len(SCHEME) :].strip()
    raise Unauthenticated("the call carries no token: authorization: Bearer TOKEN")


def _claims(token: str, policy: JwtPolicy, keys: Keys) -> dict[str, Any]:
    """What a token says that is signed, and good now."""
    key = keys.of(token)
    try:
        claims: dict[str, Any] = jwt.decode(
            token, key, list(policy.algorithms), audience=policy.audience, issuer=policy.issuer,
            leeway=LEEWAY, options={"require": ["exp", "iss", "aud"]},
        )  # fmt: skip
    except jwt.ExpiredSignatureError:
        raise Unauthenticated(EXPIRED) from None
    except (
        jwt.PyJWTError,
        ValueError,
        TypeError,
        OverflowError,
    ):  # what is wrong is its issuer's business
        raise Unauthenticated("the token is not good here") from None
    return claims


def _tenant(claims: dict[str, Any], policy: JwtPolicy) -> str:
    if not policy.tenant_claim:
        return ""
    tenant = claims.get(policy.tenant_claim)
    if not isinstance(tenant, str) or not re.fullmatch(TENANT, tenant):
        raise Unauthenticated("the token names no tenant")
    return tenant


def _roles(claim: object) -> frozenset[str]:
    """A list of roles, or a text with spaces between them; what is none of ours is passed over."""
    said: Sequence[object] = ()
    if isinstance(claim, str):
        said = claim.split()
    elif isinstance(claim, list):
        said = claim
    return ROLES & {each for each in said if isinstance(each, str)}
