"""What the scheduler asks of those who know sessions; `server.sessions.step_protocol` answers.
Whoever holds the engine calls it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from server.engine.engine import Engine, EngineRows
from server.errors import ServingError
from server.scheduler.batch import Batch
from server.scheduler.submission import Handles, Rows, Submission

Told = Callable[[Mapping[int, ServingError]], None]
"""Called with the sessions, by handle, of which something did not come to pass, and why."""


class Due(NamedTuple):
    """A step that is its session's next: where the session is resident, and the step's number."""

    slot: int
    number: int


class StepProtocol(Protocol):
    """Who knows which step of which session is next, and where its state is."""

    def settle(self, batch: Batch, under_way: Handles) -> NDArray[np.bool_]:
        """Find the rows' sessions; answer or fail the open rows that must not run, and mark those
        that are absent. Returns `fresh` for all rows.

        Args:
            under_way: others' sessions, in a run that is not over yet: they keep their places.
        """

    def commit(
        self, batch: Batch, rows: Rows, ran: EngineRows, outputs: NDArray[np.float32]
    ) -> None:
        """Note that `rows` ran with `outputs`, and answer or fail them."""

    def lose(self, batch: Batch, rows: Rows) -> None:
        """The engine failed under `rows`: end their sessions, and fail those without an outcome."""

    def due(self, handle: int, first: int) -> Due | None:
        """As `settle`, of one step of a session, under the number that its caller gave; None if it
        is not simply the next one, or the session not resident."""

    def commit_one(
        self,
        submission: Submission,
        ran: EngineRows,
        outputs: NDArray[np.float32],
    ) -> None:
        """As `commit`, of a submission of one step that was `due`, and has its number."""

    def ready(self, handles: Handles) -> bool:
        """Whether none of the sessions has to be brought in before it can step."""

    def bring_in(self, engine: Engine, handles: Handles) -> None:
        """Make sessions resident until each has been in a run."""

    def release(self, handles: Handles | None = None) -> None:
        """Rows of these sessions leave the queue. None: of all that were brought in."""

    @property
    def awaited(self) -> bool:
        """Whether sessions that were brought in have not had their run yet."""

    @property
    def room(self) -> int:
        """How many more sessions `bring_in` may be asked for now."""

    def missing(self, handles: Handles) -> Handles:
        """Those of the sessions that have to be fetched before they can be brought in."""

    def fetch(self, handles: Handles, then: Told) -> None:
        """Fetch sessions; `then` is called once it is over, from any thread, with those that cannot
        be had."""

    @property
    def confirms(self) -> bool:
        """Whether steps are answered only once they are confirmed."""

    def confirm(self, handles: Handles, then: Told) -> None:
        """Have the sessions' steps confirmed; `then` is called once it is over, from any thread,
        with those that cannot be."""
