"""Random histories of two servers over one store, beside a plain dict of what must come of them."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from server.store.interface import ANY_EPOCH, Claim, End, Hold, Store, Write, Wrote

IDS = ("a", "b", "päß-7")
SERVERS = st.sampled_from((0, 1))
ID = st.sampled_from(IDS)
SOME_IDS = st.lists(ID, min_size=1, unique=True)
PICK = st.integers(0, 100)
RECORD = st.binary(min_size=1, max_size=40)
LATER = st.integers(0, 3)


@dataclass(frozen=True)
class Kept:
    """What the store must hold of a session. `owner` may be of a server that is gone."""

    owner: str | None
    epoch: int
    revision: int
    used_at: float
    record: bytes


class Histories(RuleBasedStateMachine):
    """A subclass opens its kind of store and says how that differs."""

    asks_owners: ClassVar[bool]
    """Whether a claim leaves a live owner what it has."""
    expires_by_itself: ClassVar[bool]

    def open_store(self) -> Store:
        """One more server over the same records."""
        raise NotImplementedError

    @initialize()
    def begin(self) -> None:
        self.stores = [self.open_store(), self.open_store()]
        self.tables = [each.table("small", 1) for each in self.stores]
        self.kept: dict[str, Kept] = {}
        self.epochs: dict[tuple[str, str], list[int]] = {}
        self.start = time.time() + 1000

    def teardown(self) -> None:
        for each in getattr(self, "stores", ()):
            each.close()

    @rule(who=SERVERS, ids=SOME_IDS, record=st.none() | RECORD)
    def claim(self, who: int, ids: list[str], record: bytes | None) -> None:
        answers = self.tables[who].claim([Claim(each, record) for each in ids])
        owner = self.stores[who].owner
        live = {each.owner for each in self.stores} if self.asks_owners else set()
        for session_id, got in zip(ids, answers, strict=True):
            kept = self.kept.get(session_id)
            if kept is None and record is None:
                assert got.hold is Hold.ABSENT
                continue
            if kept is None and record is not None:
                assert (got.hold, got.record) == (Hold.CREATED, record)
                self.kept[session_id] = Kept(owner, got.epoch, 0, got.used_at, record)
            elif kept is not None and kept.owner != owner and kept.owner in live:
                assert got.hold is Hold.ELSEWHERE
                continue
            elif kept is not None:
                assert got == (Hold.OWNED, got.epoch, kept.used_at, kept.record)
                assert got.epoch > kept.epoch
                self.kept[session_id] = replace(kept, owner=owner, epoch=got.epoch, revision=0)
            self.epochs.setdefault((owner, session_id), []).append(got.epoch)

    @rule(who=SERVERS, ids=SOME_IDS, pick=PICK, ahead=st.integers(-1, 2), data=RECORD, later=LATER)
    def write(
        self, who: int, ids: list[str], pick: int, ahead: int, data: bytes, later: int
    ) -> None:
        """Of sessions owned now and of sessions owned once, by numbers new and old."""
        writes = []
        for session_id in ids:
            if epochs := self.epochs.get((self.stores[who].owner, session_id)):
                kept = self.kept.get(session_id)
                revision = max(1, (kept.revision if kept else 0) + ahead)
                retry = kept is not None and revision == kept.revision
                record = kept.record if kept and retry else data
                used_at = kept.used_at if kept and retry else self.start + later
                epoch = epochs[-1 - pick % len(epochs)]
                writes.append(Write(session_id, epoch, revision, used_at, record))
        answers = self.tables[who].write(writes)
        for write, answer in zip(writes, answers, strict=True):
            kept = self.owned(who, write.session_id, write.epoch)
            if kept is None or write.revision < kept.revision:
                assert answer is Wrote.MOVED
            else:
                assert answer is Wrote.STORED
                _, _, revision, used_at, record = write
                newer = replace(kept, revision=revision, used_at=used_at, record=record)
                self.kept[write.session_id] = newer

    @rule(who=SERVERS, session_id=ID, pick=PICK)
    def delete(self, who: int, session_id: str, pick: int) -> None:
        for end in self.ends(who, session_id, pick):
            mine = self.owned(who, session_id, end.epoch) is not None
            stays = session_id in self.kept and not mine
            expected = Wrote.MOVED if stays else Wrote.STORED
            assert self.tables[who].delete([end]) == [expected]
            if mine:
                del self.kept[session_id]

    @rule(who=SERVERS, session_id=ID, pick=PICK)
    def release(self, who: int, session_id: str, pick: int) -> None:
        for end in self.ends(who, session_id, pick):
            self.tables[who].release([end])
            if kept := self.owned(who, session_id, end.epoch):
                self.kept[session_id] = replace(kept, owner=None)

    @rule(who=SERVERS, session_id=ID)
    def release_whatever_the_epoch(self, who: int, session_id: str) -> None:
        self.tables[who].release([End(session_id, ANY_EPOCH)])
        kept = self.kept.get(session_id)
        if kept is not None and kept.owner == self.stores[who].owner:
            self.kept[session_id] = replace(kept, owner=None)

    @rule(who=SERVERS, later=LATER, limit=st.integers(1, 3))
    def expire(self, who: int, later: int, limit: int) -> None:
        before = self.start + later
        idle = [k for k, v in self.kept.items() if v.owner is None and v.used_at < before]
        expected = 0 if self.expires_by_itself else min(limit, len(idle))
        assert self.tables[who].expire(before, limit) == expected
        records = self.tables[who].read(idle)
        gone = [k for k, record in zip(idle, records, strict=True) if record is None]
        assert len(gone) == expected
        for session_id in gone:
            del self.kept[session_id]

    @rule(who=SERVERS)
    def end_a_server_and_start_another(self, who: int) -> None:
        self.stores[who].close()
        self.stores[who] = self.open_store()
        self.tables[who] = self.stores[who].table("small", 1)

    @invariant()
    def both_servers_read_what_was_stored_last(self) -> None:
        for table in getattr(self, "tables", ()):
            expected = [self.kept[each].record if each in self.kept else None for each in IDS]
            assert table.read(IDS) == expected

    def owned(self, who: int, session_id: str, epoch: int) -> Kept | None:
        """What is kept of a session, if this server owns it by that epoch."""
        kept = self.kept.get(session_id)
        mine = kept is not None and (kept.owner, kept.epoch) == (self.stores[who].owner, epoch)
        return kept if mine else None

    def ends(self, who: int, session_id: str, pick: int) -> list[End]:
        """One of the holds this server has or had, if any."""
        epochs = self.epochs.get((self.stores[who].owner, session_id), [])
        return [End(session_id, epochs[pick % len(epochs)])] if epochs else []
