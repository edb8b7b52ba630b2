"""The store in one file, DATA/sessions.db, of one server: SQLite with a write-ahead log.

The lock on DATA/lock keeps a second server out, so nobody else can own a session here, and the
lease has no end. Each call of a table is one transaction, synced to the disk once: a group commit
of however many sessions it names. All tables of the process share one connection and its lock; no
read outlives its call, so the log is always free to be moved into the file.
"""

from __future__ import annotations

import fcntl
import math
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TextIO

import apsw

from server.store.interface import (
    ANY_EPOCH,
    Claim,
    Claimed,
    End,
    Hold,
    Lease,
    StoreUnreachable,
    StoreUnusable,
    Write,
    Wrote,
)

SCHEMA_VERSION: Final = 1
PAGE: Final = 8192  # ten common records: writing thousands costs a third less than with 4096
LOG_BYTES: Final = 64 << 20  # so long a log is moved: many writes of a session cost the file one
PATIENCE: Final = 2000  # milliseconds, for a tool that reads or copies the file

_SCHEMA: Final = f"""
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY,
    model TEXT NOT NULL,
    version INTEGER NOT NULL,
    session_id TEXT NOT NULL,
    owner TEXT,
    epoch INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    used_at REAL NOT NULL,
    record BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX by_name ON sessions (model, version, session_id);
CREATE INDEX owned ON sessions (owner) WHERE owner IS NOT NULL;
CREATE INDEX idle ON sessions (model, version, used_at) WHERE owner IS NULL;
PRAGMA user_version = {SCHEMA_VERSION};
"""
_SETUP: Final = f"""
PRAGMA page_size = {PAGE};
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA wal_autocheckpoint = {LOG_BYTES // PAGE};
PRAGMA journal_size_limit = {LOG_BYTES};
"""
_NAMED: Final = "model = ? AND version = ? AND session_id = ?"
_OWNED: Final = f"{_NAMED} AND epoch = ? AND owner = ?"
_STANDING: Final = f"SELECT owner, epoch, revision FROM sessions WHERE {_NAMED}"
_READ: Final = f"SELECT record FROM sessions WHERE {_NAMED}"
_TAKE: Final = (
    f"UPDATE sessions SET owner = ?, epoch = epoch + 1, revision = 0 WHERE {_NAMED} "
    "RETURNING epoch, used_at, record"
)
_MAKE: Final = (
    "INSERT INTO sessions (model, version, session_id, owner, epoch, revision, used_at, record) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_WRITE: Final = (
    f"UPDATE sessions SET revision = ?, used_at = ?, record = ? WHERE {_OWNED} AND revision <= ?"
)
_DELETE: Final = f"DELETE FROM sessions WHERE {_OWNED}"
_RELEASE: Final = (
    f"UPDATE sessions SET owner = NULL WHERE {_NAMED} AND ? IN (epoch, {ANY_EPOCH}) AND owner = ?"
)
_EXPIRE: Final = (
    "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions "
    "WHERE model = ? AND version = ? AND owner IS NULL AND used_at < ? LIMIT ?)"
)
_DISOWN: Final = "UPDATE sessions SET owner = NULL WHERE owner IS NOT NULL"


class SqliteStore:
    """All tables of one server in a folder, which is made if need be.

    With `lock` False several may use one folder, each as if the others were dead: what one has
    claimed, the others own no more.

    Raises:
        StoreUnusable: the folder is another server's, or cannot be written; the file is damaged,
            or of a newer server.
    """

    exclusive: Final = True

    def __init__(self, folder: Path, lock: bool = True) -> None:
        self.owner: Final = str(uuid.uuid4())
        self.place: Final = str(folder / "sessions.db")
        self.locked: Final = lock
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._db: apsw.Connection | None = None
        self._held = _hold(folder) if lock else None
        try:
            self._open()
        except (apsw.Error, StoreUnreachable) as error:
            self.close()
            raise StoreUnusable(f"{self.place} cannot be used: {error}") from error
        except StoreUnusable:
            self.close()
            raise

    def table(self, model: str, version: int) -> SqliteTable:
        """The table of a model version, for any one thread at a time."""
        return SqliteTable(self, model, version)

    def renew(self) -> Lease:
        """The folder is this server's until it closes."""
        return Lease(seconds=math.inf)

    def asked_for(self, seconds: float) -> list[tuple[str, int, str]]:
        """Nobody can ask; waits so long, or until the store is closed."""
        self._closing.wait(seconds)
        return []

    def give_up(self) -> None:
        """Nobody else can use the folder before it is closed."""

    def close(self) -> None:
        """Close the file and give the folder up."""
        self._closing.set()
        with self._lock:
            self._drop()
            if self._held is not None:
                self._held.close()
                self._held = None

    @contextmanager
    def transaction(self) -> Iterator[apsw.Connection]:
        """All or nothing, and on the disk when it is left.

        Raises:
            StoreUnreachable: the file could not be read or written; nothing was changed, unless
                the disk failed as it was synced.
        """
        with self._lock:
            try:
                db = self._connection()
                db.execute("BEGIN IMMEDIATE")
                yield db
                db.execute("COMMIT")
            except apsw.Error as error:
                self._recover(error)
                raise StoreUnreachable(f"{self.place}: {error}") from error
            except BaseException:
                self._roll_back()
                raise

    def _open(self) -> None:
        db = self._connection()
        found = db.pragma("user_version")
        if found > SCHEMA_VERSION:
            raise StoreUnusable(
                f"{self.place} has version {found} of the tables; this server knows "
                f"version {SCHEMA_VERSION}"
            )
        with self.transaction() as db:
            if found == 0:
                db.execute(_SCHEMA)
            if self.locked:  # whoever owned sessions here is no more
                db.execute(_DISOWN)

    def _connection(self) -> apsw.Connection:
        if self._closing.is_set():
            raise StoreUnreachable(f"{self.place} is closed")
        if self._db is None:
            db = apsw.Connection(self.place)
            db.set_busy_timeout(PATIENCE)
            db.execute(_SETUP)
            self._db = db
        return self._db

    def _recover(self, error: apsw.Error) -> None:
        """A full disk passes, and opening the file again would need room; of any other failure it
        is not known what the connection still believes."""
        self._roll_back()
        if isinstance(error, apsw.FullError):
            self._shorten_log()
        if not isinstance(error, apsw.FullError | apsw.BusyError):
            self._drop()

    def _shorten_log(self) -> None:
        """It may be the log that takes the room: move it into the file before it has its length."""
        if self._db is not None:
            with suppress(apsw.Error):
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _roll_back(self) -> None:
        if self._db is not None and self._db.in_transaction:
            try:
                self._db.execute("ROLLBACK")
            except apsw.Error:
                self._drop()

    def _drop(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with suppress(apsw.Error):
                db.close(True)


def _hold(folder: Path) -> TextIO:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = (folder / "lock").open("a")
    except OSError as error:
        raise StoreUnusable(f"{folder} cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        held.close()
        used = isinstance(error, BlockingIOError)
        why = "is used by another server" if used else f"cannot be locked: {error.strerror}"
        raise StoreUnusable(f"{folder} {why}") from error
    return held


class SqliteTable:
    """The records of one model version; the promises are `interface.Table`'s."""

    def __init__(self, store: SqliteStore, model: str, version: int) -> None:
        self._store, self._model, self._version = store, model, version

    def claim(self, claims: Sequence[Claim]) -> list[Claimed]:
        """Become the owner of sessions; never `ELSEWHERE`."""
        with self._store.transaction() as db:
            return [self._claim(db, each) for each in claims]

    def _claim(self, db: apsw.Connection, claim: Claim) -> Claimed:
        name = (self._model, self._version, claim.session_id)
        taken: Any = db.execute(_TAKE, (self._store.owner, *name)).fetchall()
        if taken:
            return Claimed(Hold.OWNED, *taken[0])
        if claim.record is None:
            return Claimed(Hold.ABSENT)
        now = time.time()
        db.execute(_MAKE, (*name, self._store.owner, 1, 0, now, claim.record))
        return Claimed(Hold.CREATED, 1, now, claim.record)

    def read(self, session_ids: Sequence[str]) -> list[bytes | None]:
        """Records, without a change of hands; None where there is none."""
        with self._store.transaction() as db:
            return [
                db.execute(_READ, (self._model, self._version, session_id)).get
                for session_id in session_ids
            ]

    def write(self, writes: Sequence[Write]) -> list[Wrote]:
        """Store newer records, on the disk, all at once."""
        model, version, owner = self._model, self._version, self._store.owner
        rows = [
            (revision, used_at, record, model, version, session_id, epoch, owner, revision)
            for session_id, epoch, revision, used_at, record in writes
        ]
        with self._store.transaction() as db:
            before = db.total_changes()
            db.executemany(_WRITE, rows)
            if db.total_changes() - before == len(writes):
                return [Wrote.STORED] * len(writes)
            return [self._outcome(db, each) for each in writes]

    def _outcome(self, db: apsw.Connection, write: Write) -> Wrote:
        """What became of one write, where not all were stored."""
        name = (self._model, self._version, write.session_id)
        found = db.execute(_STANDING, name).fetchall()
        if not found and self._store.locked:  # nobody else can have taken or ended it
            values = (self._store.owner, write.epoch, write.revision, write.used_at, write.record)
            db.execute(_MAKE, (*name, *values))
            return Wrote.STORED
        stored = found == [(self._store.owner, write.epoch, write.revision)]
        return Wrote.STORED if stored else Wrote.MOVED

    def delete(self, ends: Sequence[End]) -> list[Wrote]:
        """Forget sessions, on the disk."""
        with self._store.transaction() as db:
            return [self._delete(db, each) for each in ends]

    def _delete(self, db: apsw.Connection, end: End) -> Wrote:
        db.execute(_DELETE, self._ended(end))
        name = (self._model, self._version, end.session_id)
        stays = db.changes() == 0 and db.execute(_READ, name).get is not None
        return Wrote.MOVED if stays else Wrote.STORED

    def release(self, ends: Sequence[End]) -> None:
        """Own these sessions no more; their records stay."""
        with self._store.transaction() as db:
            db.executemany(_RELEASE, [self._ended(each) for each in ends])

    def expire(self, before: float, limit: int) -> int:
        """Forget up to `limit` sessions that nobody owns, last used before then."""
        with self._store.transaction() as db:
            db.execute(_EXPIRE, (self._model, self._version, before, limit))
            return db.changes()

    def _ended(self, end: End) -> tuple[str, int, str, int, str]:
        return (self._model, self._version, end.session_id, end.epoch, self._store.owner)
