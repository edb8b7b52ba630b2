"""The records of one model version in redis: a hash a session, changed by `scripts` alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from server.store import scripts
from server.store.interface import Claim, Claimed, End, Hold, Write, Wrote
from server.store.redis_link import CHUNK, SPARE, Link
from server.store.redis_owners import Owners

_NUMBERS: Final = np.dtype([("epoch", "<i8"), ("revision", "<i8"), ("used_at", "<f8")])


class RedisTable:
    """The promises are `interface.Table`'s."""

    def __init__(self, link: Link, owners: Owners, model: str, version: int) -> None:
        self._link, self._owners = link, owners
        self._model, self._version = model, version

    def claim(self, claims: Sequence[Claim]) -> list[Claimed]:
        """Become the owner of sessions; those of servers that live are asked for."""
        answers = self._claim(claims, [""] * len(claims))
        held = {i: each for i, each in enumerate(answers) if isinstance(each, str)}
        if held:
            alive = self._owners.living(sorted(set(held.values())))
            dead = [i for i, owner in held.items() if not alive[owner]]
            again = self._claim([claims[i] for i in dead], [held[i] for i in dead])
            for i, answer in zip(dead, again, strict=True):
                answers[i] = answer
            self._ask([(o, claims[i].session_id) for i, o in held.items() if alive[o]])
        return self._told(answers)

    def read(self, session_ids: Sequence[str]) -> list[bytes | None]:
        """Records, without a change of hands; None where there is none."""
        keys, found = self._keys(session_ids), list[bytes | None]()
        for at in range(0, len(keys), CHUNK):
            found += self._link.send(*(("HGET", key, "record") for key in keys[at : at + CHUNK]))
        return found

    def write(self, writes: Sequence[Write]) -> list[Wrote]:
        """Store newer records, as durably as redis was set up to."""
        answers = self._write(writes, make=False)
        missing = [i for i, answer in enumerate(answers) if answer == scripts.MISSING]
        if missing and self._owners.may_make_again():
            again = self._write([writes[i] for i in missing], make=True)
            for i, answer in zip(missing, again, strict=True):
                answers[i] = answer
        return list(map(_wrote, answers))

    def delete(self, ends: Sequence[End]) -> list[Wrote]:
        """Forget sessions, and remember for an hour that they are closed."""
        arguments: list[Any] = []
        for end in ends:
            arguments += (self._owners.me, end.epoch, int(SPARE * 1000))
        return list(map(_wrote, self._run(scripts.DELETE, ends, arguments)))

    def release(self, ends: Sequence[End]) -> None:
        """Own these sessions no more; their records stay."""
        arguments: list[Any] = []
        for end in ends:
            arguments += (self._owners.me, end.epoch)
        self._run(scripts.RELEASE, ends, arguments)

    def expire(self, before: float, limit: int) -> int:
        """Nothing to do: redis forgets a record by itself, an hour after its time to live."""
        return 0

    def _told(self, answers: Sequence[Claimed | str]) -> list[Claimed]:
        told = [Claimed(Hold.ELSEWHERE) if isinstance(each, str) else each for each in answers]
        absent = [row for row, each in enumerate(told) if each.hold is Hold.ABSENT]
        if absent and self._owners.filling():
            for row in absent:
                told[row] = Claimed(Hold.ELSEWHERE)
        return told

    def _claim(self, claims: Sequence[Claim], takeable: Sequence[str]) -> list[Claimed | str]:
        """The outcome of each, or its present owner; `takeable` are owners that are dead."""
        now, me = time.time(), self._owners.me
        stays, arguments = self._link.stays(now), list[Any]()
        for (_, record), former in zip(claims, takeable, strict=True):
            make = int(record is not None)
            arguments += (me, former, make, record or b"", repr(now), stays)
        answers = self._run(scripts.CLAIM, claims, arguments)
        return [_claimed(*each) for each in zip(claims, answers, strict=True)]

    def _ask(self, held: Sequence[tuple[str, str]]) -> None:
        if held:
            self._owners.ask([(who, self._model, self._version, name) for who, name in held])

    def _write(self, writes: Sequence[Write], make: bool) -> list[int]:
        answers: list[int] = []
        for at in range(0, len(writes), CHUNK):
            some = writes[at : at + CHUNK]
            keys = self._keys([each.session_id for each in some])
            shared = (self._owners.me, int(make), self._link.left(0.0), _numbers(some))
            records = [each.record for each in some]
            answers += self._link.run(scripts.WRITE, keys, records, shared)
        return answers

    def _run(self, script: str, those: Sequence[Claim | Write | End], values: list[Any]) -> Any:
        return self._link.run(script, self._keys([each.session_id for each in those]), values)

    def _keys(self, session_ids: Sequence[str]) -> list[str]:
        prefix = f"tidegate:{{{self._model}/{self._version}/"
        return [f"{prefix}{session_id}}}" for session_id in session_ids]


def _numbers(writes: Sequence[Write]) -> bytes:
    """What the script is told of each beside its record, in one argument: an argument costs the
    client and redis more than what is in it."""
    return np.array([(e.epoch, e.revision, e.used_at) for e in writes], dtype=_NUMBERS).tobytes()


def _claimed(claim: Claim, answer: list[Any]) -> Claimed | str:
    match answer:
        case []:
            return Claimed(Hold.ABSENT)
        case [bytes(owner)]:
            return owner.decode()
        case [epoch, used_at]:
            return Claimed(Hold.CREATED, epoch, float(used_at), claim.record or b"")
        case _:
            epoch, used_at, record = answer
            return Claimed(Hold.OWNED, epoch, float(used_at), record)


def _wrote(answer: int) -> Wrote:
    return Wrote.STORED if answer == scripts.STORED else Wrote.MOVED
