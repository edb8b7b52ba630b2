"""The public keys of who issues JSON web tokens (RFC 7517), from a file or over HTTPS.

Nobody waits for them: a thread fetches them again and again, and at once, though not too often,
when a token names a key that is not known. Until it has come, such tokens are refused.
"""

from __future__ import annotations

import logging
import threading
import time
import urllib.request
from pathlib import Path

import jwt

from server.access.policy import Jwt
from server.errors import Unauthenticated

log = logging.getLogger(__name__)

LEAST_PAUSE = 5.0  # seconds between two looks, whatever tokens name
TIMEOUT = 10.0
MOST_BYTES = 1 << 20


class Keys:
    """The keys, by their ids."""

    def __init__(self, jwt_policy: Jwt) -> None:
        self._policy = jwt_policy
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._due, self._over = threading.Event(), False
        self.fetched = threading.Event()
        """Set once the first look is over."""
        self._looked = -LEAST_PAUSE
        self._thread = threading.Thread(target=self._run, name="keys", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._over = True
        self._due.set()

    def of(self, token: str) -> jwt.PyJWK:
        """The key with which a token says that it was signed.

        Raises:
            Unauthenticated: it is no token, or the key is not known, or not known yet.
        """
        try:
            key_id = jwt.get_unverified_header(token).get("kid")
        except jwt.InvalidTokenError:
            raise Unauthenticated("the token is not known") from None
        if (key := self._keys.get(key_id)) is not None:
            return key
        self._due.set()
        raise Unauthenticated("the token is signed with a key that is not known")

    def _run(self) -> None:
        while not self._over:
            self._look()
            self.fetched.set()
            self._due.wait(self._policy.refresh_seconds)
            time.sleep(max(0.0, self._looked + LEAST_PAUSE - time.monotonic()))
            self._due.clear()

    def _look(self) -> None:
        self._looked = time.monotonic()
        try:
            found = jwt.PyJWKSet.from_json(self._fetch())
        except Exception as error:
            log.error("the keys at %s stay as they were: %s", self._policy.jwks, error)
            return
        keys = {key.key_id: key for key in found.keys}
        if len(found.keys) == 1:
            keys[None] = found.keys[0]  # a token need not name the only one there is
        self._keys = keys

    def _fetch(self) -> str:
        if not self._policy.remote:
            return Path(self._policy.jwks).read_text("utf-8")
        with urllib.request.urlopen(self._policy.jwks, timeout=TIMEOUT) as page:
            packed: bytes = page.read(MOST_BYTES)
        return packed.decode()
