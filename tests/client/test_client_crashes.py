"""A server that crashes and comes back at an earlier step: no step is lost, none counts twice."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.client.durable import DurableServer, outputs
from tests.client.fake import NAME
from tests.client.test_client_faults import opened
from tidegate import Client, ClientOptions, Replay, RetryPolicy, Session, errors
from tidegate.model import FloatArray
from tidegate.v1 import tidegate_pb2 as pb

PATIENT = ClientOptions(timeout=20.0, retry=RetryPolicy(5, 0.001, 0.002))
Play = Callable[[DurableServer, Client], Awaitable[None]]


def run(play: Play, options: ClientOptions = PATIENT, lag: int = 3, seed: int = 0) -> None:
    """Play with a server that stores `lag` steps behind; whoever hangs fails."""

    async def bounded() -> None:
        async with (
            asyncio.timeout(60),
            DurableServer(lag, seed) as server,  # type: ignore[abstract]
            Client(server.address, options) as client,
        ):
            await play(server, client)

    asyncio.run(bounded())


def draws(steps: int, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).normal(size=(steps, 2)).astype(np.float32)


def model(xs: FloatArray) -> FloatArray:
    return np.array(outputs([x.tobytes() for x in xs]), np.float32)[:, None]


async def until(true: Callable[[], bool]) -> None:
    """Let the others go on until it is so."""
    while not true():
        await asyncio.sleep(0)


def lose(server: DurableServer, session_id: str = "a", steps: int | None = None) -> None:
    """A crash with the next message, back to `steps`, or to what was told."""
    life = server.lives[session_id]
    life.stored = life.stored if steps is None else steps
    life.ends = [end for end in life.ends if end <= life.stored] or [life.stored]
    server.faults[len(server.batches)] = "before"


@pytest.mark.parametrize("lag", [1, 5, 30])
def test_a_crash_that_takes_answered_steps_back_goes_unnoticed(lag: int) -> None:
    async def play(server: DurableServer, client: Client) -> None:
        xs, session = draws(40), await opened(client)
        answers = []
        for at, x in enumerate(xs):
            if at in (7, 25, 26):
                lose(server)
            answers.append(await session.step(x))
        np.testing.assert_array_equal(answers, model(xs))
        assert server.lives["a"].inputs == [x.tobytes() for x in xs]
        assert session.steps == len(xs)
        assert session.durable_step == server.lives["a"].stored <= len(xs) - lag

    run(play, lag=lag)


def test_chunks_are_applied_again_in_rows_that_the_model_takes() -> None:
    async def play(server: DurableServer, client: Client) -> None:
        xs, session = draws(60), await opened(client)
        await session.chunk(xs[:50])
        server.lives["a"].stored = 0
        server.lives["a"].ends = [0]
        lose(server)
        np.testing.assert_array_equal(await session.chunk(xs[50:]), model(xs)[50:])
        longest = session.model.max_chunk
        assert all(
            max(np.frombuffer(batch.lengths, "<u4"), default=1) <= longest
            for batch in server.batches
        )

    run(play, lag=100)


def test_a_second_crash_amid_the_first_ones_replay_goes_unnoticed_too() -> None:
    async def play(server: DurableServer, client: Client) -> None:
        xs, session = draws(41), await opened(client)
        for x in xs[:40]:
            await session.step(x)
        now = len(server.batches)
        server.faults = dict.fromkeys((now, now + 3, now + 4, now + 7), "after")
        server.faults[now + 9] = "before"
        np.testing.assert_array_equal(await session.step(xs[40]), model(xs)[40])
        assert server.lives["a"].inputs == [x.tobytes() for x in xs]

    run(play, lag=100)


def test_nothing_is_kept_for_a_server_without_a_store() -> None:
    async def play(server: DurableServer, client: Client) -> None:
        server.telling = False
        session = await opened(client)
        await session.chunk(draws(30))
        assert session._course is not None
        assert not session._course.kept.data

    run(play)


def test_only_what_is_not_stored_is_kept() -> None:
    async def play(server: DurableServer, client: Client) -> None:
        xs, session = draws(30), await opened(client)
        for x in xs:
            await session.step(x)
        assert session._course is not None
        assert bytes(session._course.kept.data) == xs[session.durable_step :].tobytes()
        assert session.durable_step == 25

    run(play, lag=5)


def test_inputs_forgotten_are_told_of_as_steps_lost_until_the_session_is_opened_again() -> None:
    async def play(server: DurableServer, client: Client) -> None:
        xs, session = draws(30), await opened(client)
        for x in xs[:20]:
            await session.step(x)
        lose(server)
        for _ in range(2):
            with pytest.raises(errors.StepsLost) as caught:
                await session.step(xs[20])
            assert (caught.value.expected_step, caught.value.reason) == (0, "step_gap")
            assert session.steps == 20
        await session.open()
        assert session.steps == 0
        np.testing.assert_array_equal(await session.chunk(xs), model(xs))

    run(play, ClientOptions(replay=Replay(kept_steps=19), retry=PATIENT.retry), lag=100)


def test_a_store_that_lost_what_it_told_of_is_told_of_as_steps_lost() -> None:
    async def play(server: DurableServer, client: Client) -> None:
        session = await opened(client)
        for x in draws(20):
            await session.step(x)
        assert session.durable_step == 17
        lose(server, steps=12)
        with pytest.raises(errors.StepsLost):
            await session.step(draws(1)[0])
        assert server.lives["a"].count == 12

    run(play)


@pytest.mark.parametrize("crash", [True, False])
def test_a_session_begun_anew_by_somebody_else_is_never_filled_with_old_steps(crash: bool) -> None:
    async def play(server: DurableServer, client: Client) -> None:
        session = await opened(client)
        for x in draws(20):
            await session.step(x)
        if crash:
            lose(server)
        await client.reset_session(NAME, "a")
        with pytest.raises(errors.StepGap) as caught:
            await session.step(draws(1)[0])
        assert type(caught.value) is errors.StepGap
        assert server.lives["a"].count == 0

    run(play, lag=100)


def test_after_a_reset_the_new_life_is_the_one_that_is_kept() -> None:
    async def play(server: DurableServer, client: Client) -> None:
        xs, session = draws(30), await opened(client)
        await session.chunk(xs[:20])
        await session.reset()
        answers = [await session.step(x) for x in xs[20:28]]
        lose(server)
        answers += [await session.step(x) for x in xs[28:]]
        np.testing.assert_array_equal(answers, model(xs[20:]))

    run(play, lag=100)


def test_what_all_sessions_keep_is_bounded_and_those_idle_longest_forget_first() -> None:
    async def play(server: DurableServer, client: Client) -> None:
        idle, busy = await opened(client, "idle"), await opened(client, "busy")
        await idle.chunk(draws(50))
        for x in draws(200):
            await busy.step(x)
            kept = [each._course.kept for each in (idle, busy) if each._course is not None]
            assert sum(len(each.data) for each in kept) <= 1000
        assert not kept[0].data
        assert len(kept[1].data) >= 400

    run(play, ClientOptions(replay=Replay(kept_bytes=1000)), lag=1000)


def test_a_session_that_moved_is_asked_for_over_a_new_stream_under_the_same_numbers() -> None:
    async def play(server: DurableServer, client: Client) -> None:
        xs, session = draws(10), await opened(client)
        server.faults = dict.fromkeys((2, 3, 6), "moved")
        answers = [await session.step(x) for x in xs]
        np.testing.assert_array_equal(answers, model(xs))
        assert server.calls.count("StepStream") == 4
        assert server.lives["a"].inputs == [x.tobytes() for x in xs]
        server.faults = dict.fromkeys(range(len(server.batches), 1000), "moved")
        with pytest.raises(errors.SessionMoved):
            await session.step(xs[0])

    run(play)


def test_a_session_that_moves_again_and_again_opens_a_stream_a_second_at_most() -> None:
    async def play(server: DurableServer, client: Client) -> None:
        loop, session = asyncio.get_running_loop(), await opened(client)
        server.faults = dict.fromkeys(range(1000), "moved")
        started = loop.time()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(refused(session))
            for at in range(5):
                tasks.create_task(refused(await opened(client, f"beside-{at}")))
        assert server.calls.count("StepStream") <= 2 + (loop.time() - started)

    async def refused(session: Session) -> None:
        with pytest.raises(errors.SessionMoved):
            await session.step(draws(1)[0])

    run(play, ClientOptions(timeout=20.0, retry=RetryPolicy(8, 0.02, 0.05)))


def test_a_store_that_is_down_is_waited_for_and_then_named() -> None:
    async def play(server: DurableServer, client: Client) -> None:
        xs, session = draws(3), await opened(client)
        server.faults = {0: "down", 1: "down"}
        np.testing.assert_array_equal(await session.step(xs[0]), model(xs)[0])
        server.faults = dict.fromkeys(range(3, 1000), "down")
        with pytest.raises(errors.StoreDown):
            await session.step(xs[1])

    run(play)


def test_a_step_given_up_while_the_server_refuses_it_for_now_holds_nobody_up() -> None:
    async def play(server: DurableServer, client: Client) -> None:
        xs, session = draws(2), await opened(client)
        server.faults = {0: "down"}
        first = asyncio.ensure_future(session.step(xs[0]))
        await until(lambda: len(server.batches) == 1)
        first.cancel()
        np.testing.assert_array_equal(await session.step(xs[1]), model(xs[1:])[0])
        assert server.lives["a"].inputs == [xs[1].tobytes()]

    run(play)


def test_a_step_asked_for_again_and_again_while_it_is_refused_for_now_counts_once() -> None:
    async def play(server: DurableServer, client: Client) -> None:
        x, session = draws(1)[0], await opened(client)
        server.faults = {0: "down"}
        for _ in range(2):
            task = asyncio.ensure_future(session.step(x))
            await until(lambda: len(server.batches) > 0)
            task.cancel()
            await asyncio.wait([task])
        await session.step(x)
        assert server.lives["a"].inputs == [x.tobytes()]

    run(play, ClientOptions(timeout=20.0, retry=RetryPolicy(5, 0.05, 0.1)))


def test_a_chunk_given_up_after_it_was_answered_in_part_from_memory_is_a_retry_again() -> None:
    async def play(server: DurableServer, client: Client) -> None:
        xs, session = draws(9), await opened(client)
        for part in (xs[:1], xs):
            before = len(server.batches)
            task = asyncio.ensure_future(session.chunk(part))
            await until(lambda: len(server.batches) > before)  # noqa: B023
            task.cancel()
            await asyncio.wait([task])
        np.testing.assert_array_equal(await session.chunk(xs), model(xs))
        assert server.lives["a"].inputs == [x.tobytes() for x in xs]

    run(play)


def test_what_is_asked_of_a_session_after_a_crash_is_asked_of_all_its_steps() -> None:
    async def play(server: DurableServer, client: Client) -> None:
        xs, session = draws(22), await opened(client)
        other = await opened(client, "b")
        for x in xs[:20]:
            await session.step(x)
        for _ in range(2):
            lose(server, steps=3)
            server.faults[len(server.batches) + 2] = "after"  # amid what makes it good
            await other.step(xs[0])
            assert server.lives["a"].count == 3
            peeked = (await session.peek())["inputs"]
            assert peeked.tobytes() == xs[:20].tobytes()
        await session.peek()
        sent = len(server.batches)
        await session.peek()
        assert len(server.batches) == sent  # nothing broke since
        np.testing.assert_array_equal(await session.chunk(xs[20:]), model(xs)[20:])

    run(play, lag=100)


async def peeked(session: Session) -> bytes:
    return (await session.peek())["inputs"].tobytes()


async def exported(session: Session) -> bytes:
    return pb.Snapshot.FromString(await session.export()).remembered_outputs


async def forked(session: Session) -> bytes:
    return await peeked(await session.fork("copy"))


async def forecast(session: Session) -> bytes:
    return (await session.forecast(1, np.zeros((1, 2)))).tobytes()


@pytest.mark.parametrize("look", [peeked, exported, forked, forecast])
def test_a_server_that_dies_amid_a_look_leaves_nobody_with_an_older_session(
    look: Callable[[Session], Awaitable[bytes]],
) -> None:
    """The call goes on to whoever has the session now, as it was stored last, before anybody has
    heard of the crash; likewise when that one dies."""

    async def play(server: DurableServer, client: Client) -> None:
        xs, session = draws(22), await opened(client)
        for x in xs[:20]:
            await session.step(x)
        seen = model(np.concatenate([xs[:20], np.zeros((1, 2), np.float32)]))[20]
        whole = seen.tobytes() if look is forecast else xs[:20].tobytes()
        for times in (1, 2):
            server.lives["a"].stored, server.dying = 3, times
            if times == 2:
                server.faults[len(server.batches) + 3] = "after"  # amid what makes it good
            server.lives["a"].ends = [3]
            assert await look(session) == whole
            assert not server.dying
            server.lives.pop("copy", None)
        np.testing.assert_array_equal(await session.chunk(xs[20:]), model(xs)[20:])
        assert server.lives["a"].inputs == [x.tobytes() for x in xs]

    run(play, lag=100)


def test_a_look_at_a_session_that_somebody_began_anew_tells_of_that_one() -> None:
    async def play(server: DurableServer, client: Client) -> None:
        session = await opened(client)
        await session.chunk(draws(20))
        server.begin("a")
        assert await asyncio.wait_for(peeked(session), 10) == b""

    run(play, lag=100)


def test_a_look_that_is_given_up_leaves_the_session_as_it_was() -> None:
    async def play(server: DurableServer, client: Client) -> None:
        xs, session = draws(20), await opened(client)
        for x in xs[:18]:
            await session.step(x)
        lose(server)
        await (await opened(client, "b")).step(xs[0])
        for most in (1, 2, 3):
            before = len(server.batches)
            task = asyncio.ensure_future(session.peek())
            await until(lambda: task.done() or len(server.batches) >= before + most)  # noqa: B023
            task.cancel()
            await asyncio.wait([task])
        np.testing.assert_array_equal(await session.chunk(xs[18:]), model(xs)[18:])
        assert server.lives["a"].inputs == [x.tobytes() for x in xs]

    run(play, lag=100)


def test_step_many_tells_what_is_stored_of_each_session() -> None:
    async def play(server: DurableServer, client: Client) -> None:
        ids = ["a", "b"]
        await client.step_many(NAME, ids[:1], [0], draws(1)[:, None])
        done = await client.step_many(NAME, ids, [1, 0], np.array([draws(8), draws(8)]))
        assert done.durable.tolist() == [1, 0]
        assert done.durable.dtype == np.int64
        server.telling = False
        done = await client.step_many(NAME, ids, [9, 8], np.array([draws(1), draws(1)]))
        assert done.durable.tolist() == [0, 0]

    run(play)


class Caller:
    """One session's caller: what it was answered, and what it does not know the fate of."""

    def __init__(self, session: Session, seed: int, steps: int) -> None:
        self._session, self._chance = session, random.Random(seed)
        self._xs, self._at, self._asked = draws(steps, seed), 0, 0
        self.answered: dict[bytes, float] = {}
        self.lost: list[bytes] = []

    async def play(self) -> None:
        """Step and chunk through all inputs, giving up now and then; the last one is for `end`."""
        while self._at < len(self._xs) - 1:
            most = self._chance.choice([1, 1, 1, 3, 20])
            xs = self._xs[self._at : self._at + most][: len(self._xs) - 1 - self._at]
            self._asked = max(self._asked, self._at + len(xs))
            if await self._hurried(xs):
                self._at += len(xs)
            elif self._chance.random() < 0.5:
                self._at = self._asked  # gone on, past all that was given up

    async def end(self) -> None:
        """The last step, which nothing disturbs, makes good what the latest crash took back."""
        answer = await self._session.step(self._xs[-1])
        self.answered[self._xs[-1].tobytes()] = float(answer[0])

    async def _hurried(self, xs: FloatArray) -> bool:
        """Whether it was answered before patience ended."""
        task = asyncio.ensure_future(self._call(xs))
        if self._chance.random() < 0.3:
            await asyncio.wait([task], timeout=self._chance.uniform(0, 0.004))
            task.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            self.lost += [x.tobytes() for x in xs]
            return False

    async def _call(self, xs: FloatArray) -> bool:
        session = self._session
        timeout = self._chance.uniform(0.0005, 0.005) if self._chance.random() < 0.2 else None
        try:
            if len(xs) == 1:
                answers = (await session.step(xs[0], timeout=timeout))[None]
            else:
                answers = await session.chunk(xs, timeout=timeout)
        except (errors.DeadlineExceeded, errors.Unavailable):
            self.lost += [x.tobytes() for x in xs]
            return False
        self.answered |= {x.tobytes(): float(y[0]) for x, y in zip(xs, answers, strict=True)}
        return True


FAULTS = st.dictionaries(
    st.integers(0, 150), st.sampled_from(["before", "after", "moved", "down"]), max_size=40
)


@settings(deadline=None, max_examples=100)
@given(faults=FAULTS, lag=st.integers(0, 40), seed=st.integers(0, 2**20))
def test_whatever_crashes_and_whoever_gives_up_each_step_counts_once_and_in_order(
    faults: dict[int, str], lag: int, seed: int
) -> None:
    """In the end a session's inputs are those that were answered, in order, each once, and of those
    given up some; and every answer is the model's to just these inputs."""

    async def play(server: DurableServer, client: Client) -> None:
        server.faults = faults
        callers = {}
        for k in range(3):
            callers[f"{k}"] = Caller(await opened(client, f"{k}"), 3 * seed + k, 40)
        await asyncio.gather(*(caller.play() for caller in callers.values()))
        server.faults = {}
        await asyncio.gather(*(caller.end() for caller in callers.values()))
        for name, caller in callers.items():
            inputs = server.lives[name].inputs
            assert max(Counter(inputs).values()) == 1
            assert set(caller.answered) <= set(inputs) <= set(caller.answered) | set(caller.lost)
            order = {x.tobytes(): at for at, x in enumerate(caller._xs)}
            assert inputs == sorted(inputs, key=order.__getitem__)
            told = dict(zip(inputs, outputs(inputs), strict=True))
            assert {x: float(told[x]) for x in caller.answered} == caller.answered

    run(play, lag=lag, seed=seed)
