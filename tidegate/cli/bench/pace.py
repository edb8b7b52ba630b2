"""When a session's next call begins."""

import asyncio
import random
import time


class Pace:
    """Calls `interval` seconds apart, or one after the other where it is 0.

    Sessions begin spread over the first interval, so that they do not call in step.
    """

    def __init__(self, interval: float, until: float) -> None:
        self._interval, self._until = interval, until
        self._due = time.perf_counter() + interval * random.random()

    async def next(self) -> float | None:
        """Wait for it; the moment from which it counts, None when the time is over.

        A call that is late, because the one before took too long, counts from when it was due:
        whoever needed its answer would have waited since then.
        """
        now = time.perf_counter()
        if self._interval and now < self._due:
            await asyncio.sleep(min(self._due, self._until) - now)
            now = time.perf_counter()
            began = now
        else:
            began = self._due if self._interval else now
        self._due += self._interval
        return began if now < self._until else None
