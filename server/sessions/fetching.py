"""Fetching: the records of sessions that rows wait for, from the store to the shelf.

A record that is not of the step that the session is at is of no use: the store is behind, or ahead.
"""

from __future__ import annotations

import time

import numpy as np

from server.engine.engine import Engine
from server.errors import ServingError, SessionSetBack
from server.scheduler.submission import Handles
from server.sessions.checkpoint import Checkpoint
from server.sessions.claims import Claims, shelved
from server.sessions.directory import Directory
from server.sessions.handover import BetweenRuns
from server.sessions.passes import Failed
from server.sessions.shelf import Shelf
from server.sessions.standing import Standings
from server.store.health import Health
from server.store.interface import Table


class Fetching:
    """Fetches the sessions of one model version. For the keeper's thread.

    Args:
        between_runs: `Scheduler.between_runs`.
    """

    def __init__(
        self,
        table: Table,
        health: Health,
        directory: Directory,
        shelf: Shelf,
        claims: Claims,
        checkpoint: Checkpoint,
        between_runs: BetweenRuns,
    ) -> None:
        self._table, self._health, self._directory = table, health, directory
        self._shelf, self._claims = shelf, claims
        self._checkpoint, self._between_runs = checkpoint, between_runs

    def fetch(self, handles: Handles) -> Failed:
        """Read sessions' records, and shelve them; returns those that are not to be had."""
        sessions = self._directory.standings(handles)
        records = self._table.read(sessions.ids)
        self._health.answered()
        failed: Failed = {}
        for row, (handle, data) in enumerate(zip(sessions.handles.tolist(), records, strict=True)):
            found = self._claims.read(sessions.ids[row], data)
            if isinstance(found, ServingError):
                failed[handle] = found
            elif (found.life, found.steps) == (sessions.lives[row], sessions.counts[row]):
                self._shelf.put_read(handle, shelved(found))
            else:  # the store is behind, or ahead
                model, name = self._directory.model, sessions.ids[row]
                failed[handle] = SessionSetBack(model, name, time.time())
        return self._set_back(sessions, failed) if failed else failed

    def _set_back(self, sessions: Standings, failed: Failed) -> Failed:
        """What the store has of these sessions is not what they are. End those that are nowhere
        else; the others came back, or moved on, while the store was asked."""
        rows = np.flatnonzero(np.isin(sessions.handles, np.array(list(failed))))

        def judge(_: Engine) -> Handles:
            gone = self._checkpoint.nowhere(sessions.rows(rows))
            self._directory.end(gone, SessionSetBack)
            return gone

        gone = self._between_runs(judge).result().tolist()
        return {handle: error for handle, error in failed.items() if handle in gone}
