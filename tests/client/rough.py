"""Sessions whose callers lose patience: what they do, and the proof that each step counts once."""

import asyncio
import itertools
import random
from uuid import uuid4

import numpy as np

from tests.client.bundles import EXERCISE, MODEL
from tests.client.observations import TOLERANCE, observations
from tidegate import Client, Session, errors
from tidegate.model import FloatArray
from training.reference import NumpyNetwork


class Witness:
    """Follows a session by the equations, trying which of the failed steps were applied."""

    def __init__(self) -> None:
        self._lstm = NumpyNetwork(EXERCISE)
        self._state = self._lstm.initial()

    def see(self, x: FloatArray, output: FloatArray, applied: int, lost: list[FloatArray]) -> None:
        """`output` answered `x`, and `applied` of the `lost` steps went before it."""
        for before in itertools.combinations(lost, applied):
            outputs, state = self._lstm.run(np.array([*before, x]), self._state)
            if np.abs(outputs[-1] - output).max() <= TOLERANCE:
                self._state = state
                return
        raise AssertionError(f"no history with {applied} of {len(lost)} lost steps explains this")


async def hurried(session: Session, x: FloatArray, chance: random.Random) -> FloatArray:
    """A step that may run out of time, by the caller's cancellation or by gRPC's deadline."""
    seconds = chance.uniform(0.0002, 0.006)
    if chance.random() < 0.5:
        return await session.step(x, timeout=seconds)
    return await asyncio.wait_for(session.step(x), seconds)


async def play_roughly(client: Client, seed: int, steps: int = 50) -> tuple[int, int]:
    """One session, many of whose steps are given up midway: how many, and how many were applied."""
    chance, witness = random.Random(seed), Witness()
    lost: list[FloatArray] = []
    failures = strays = number = 0
    async with client.session(MODEL, f"rough-{uuid4()}") as session:
        for x in observations(steps, seed):
            while True:
                patient = len(lost) >= 4 or chance.random() < 0.6
                try:
                    output = await (session.step(x) if patient else hurried(session, x, chance))
                except (TimeoutError, errors.DeadlineExceeded):
                    failures += 1
                    if not any(each is x for each in lost):
                        lost.append(x)
                    if chance.random() < 0.5:
                        break  # given up for good: the next observation follows
                    continue
                applied = session.steps - number - 1
                witness.see(x, output, applied, [each for each in lost if each is not x])
                number, lost, strays = session.steps, [], strays + applied
                break
        if not lost:
            assert (await session.info()).steps == session.steps
    return failures, strays
