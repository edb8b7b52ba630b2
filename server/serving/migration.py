"""Migrates sessions from one version of a model to another while callers go on stepping them.

By their state where both versions have the same states, or by stepping the latest inputs in the
other version from its initial state. A thread of the caller's drives it; the work itself is done by
the two schedulers (see `sessions.moving`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum
from functools import partial
from itertools import islice

from server.bundle.manifest import Manifest
from server.errors import CannotMigrate, Internal, ServingError, SessionMigrated, StateAway
from server.serving.model import ServedModel
from server.sessions.moving import Comer, Leaver, Outcome
from server.sessions.tombstones import How

AT_ONCE = 32  # sessions held still together
PAGE = 1000


class By(Enum):
    """What a session goes on from."""

    STATE = "state"
    INPUTS = "inputs"


@dataclass(frozen=True)
class Migrated:
    """Sessions that went, and why others stay."""

    went: list[str]
    stay: dict[str, ServingError]


def migrate(
    origin: ServedModel, target: ServedModel, ids: Sequence[str] | None, by: By
) -> Migrated:
    """Migrate sessions, None: all that are live. One migration at a time.

    Raises:
        CannotMigrate: no session of the one version can go on in the other.
    """
    check(origin.manifest, target.manifest, by)
    if by is By.INPUTS and target.moving.kept is None:
        raise CannotMigrate("the server keeps no inputs to go on from (see kept_inputs)")
    move = _by_state if by is By.STATE else _by_inputs
    how: How = partial(SessionMigrated, version=target.version)
    done = Migrated([], {})
    size = min(AT_ONCE, origin.moving.most, target.moving.most, target.manifest.max_batch)
    named = iter(dict.fromkeys(ids)) if ids is not None else _all(origin)
    while group := list(islice(named, size)):
        outcomes = _at_hand(origin, group, lambda ids: move(origin, target, ids, how))
        went = [session_id for session_id, outcome in outcomes.items() if outcome is None]
        done.went.extend(went)
        done.stay.update((each, outcome) for each, outcome in outcomes.items() if outcome)
        _store(origin, target, went)
    return done


def _at_hand(
    origin: ServedModel, ids: list[str], move: Callable[[list[str]], Sequence[Outcome]]
) -> dict[str, Outcome]:
    """What became of sessions, whose states are fetched from the store as often as they are
    away."""
    outcomes: dict[str, Outcome] = {}
    while ids:
        outcomes |= zip(ids, move(ids), strict=True)
        away = [each for each in ids if isinstance(outcomes[each], StateAway)]
        fetched = {each: origin.fetch(each) for each in away}
        outcomes |= {each: _error(came) for each, came in fetched.items()}
        ids = [each for each in away if outcomes[each] is None]
    return outcomes


def _error(done: Future[None]) -> Outcome:
    error = done.exception()
    return error if error is None or isinstance(error, ServingError) else Internal()


def _store(origin: ServedModel, target: ServedModel, went: list[str]) -> None:
    """The store follows: the sessions' records are there before they are gone here. If it does not
    answer, they are written once it does, and the former ones stay until they expire."""
    if origin.keeper is None:
        return
    stored = [target.confirm(each) for each in went]
    failed = [each.exception() is not None for each in stored]
    if not (any(failed) or origin.keeper.health.down):
        origin.keeper.migrated(went)


def check(ours: Manifest, theirs: Manifest, by: By) -> None:
    """Refuse what callers would notice, or what cannot be.

    Raises:
        CannotMigrate: observations or outputs differ in width; or by state, states differ.
    """
    for what, here, there in (
        ("features", ours.inputs_width, theirs.inputs_width),
        ("output values", ours.outputs_width, theirs.outputs_width),
    ):
        if here != there:
            text = f"version {ours.version} has {here} {what}, version {theirs.version} {there}"
            raise CannotMigrate(text)
    if by is By.STATE and (have := _states(ours)) != (want := _states(theirs)):
        raise CannotMigrate(
            f"version {ours.version} has the states {have}, version {theirs.version} {want}"
        )


def _states(manifest: Manifest) -> str:
    return ", ".join(f"{s.name} {s.dtype}{list(s.shape)}" for s in manifest.states)


def _all(model: ServedModel) -> Iterator[str]:
    """The ids of all live sessions, of a page at a time."""
    after = ""
    while page := model.directory.page(after, PAGE):
        yield from (info.session_id for info in page)
        after = page[-1].session_id


def _by_state(
    origin: ServedModel, target: ServedModel, ids: list[str], how: How
) -> Sequence[Outcome]:
    def take(found: list[Leaver | ServingError]) -> list[Outcome]:
        return _for_those_there(found, lambda there: target.moving.take_in(there, how).result())

    return origin.moving.hand_over(ids, take).result()


def _by_inputs(
    origin: ServedModel, target: ServedModel, ids: list[str], how: How
) -> Sequence[Outcome]:
    """Step copies through what is known of the sessions, while these go on; then hold the sessions
    still, and step the copies through the rest."""
    found = origin.moving.look(ids).result()
    there = [each for each in found if isinstance(each, Leaver)]
    comers = target.moving.expect(there).result()
    try:
        while target.moving.catch_up(comers).result():
            pass
        copies = {leaver.handle: comer for leaver, comer in zip(there, comers, strict=True)}
        return origin.moving.hand_over(ids, partial(_settle, target, copies, how)).result()
    finally:
        target.moving.drop(comers)


def _settle(
    target: ServedModel, copies: dict[int, Comer], how: How, found: list[Leaver | ServingError]
) -> list[Outcome]:
    known = [
        each
        if isinstance(each, ServingError) or each.handle in copies
        else CannotMigrate("the session began anew meanwhile; ask again")
        for each in found
    ]

    def settle(there: list[Leaver]) -> list[Outcome]:
        mine = [copies[each.handle] for each in there]
        return target.moving.settle(there, mine, how).result()

    return _for_those_there(known, settle)


def _for_those_there(
    found: Sequence[Leaver | ServingError], work: Callable[[list[Leaver]], list[Outcome]]
) -> list[Outcome]:
    """The outcomes of all, where only some are there to be worked on."""
    there = [each for each in found if isinstance(each, Leaver)]
    try:
        done = iter(work(there) if there else [])
    except ServingError as error:
        done = iter([error] * len(there))
    except Exception as error:  # whoever holds the engine must not die of it
        raise Internal from error
    return [next(done) if isinstance(each, Leaver) else each for each in found]
