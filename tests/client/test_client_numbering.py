"""The numbering of steps, driven through every kind of failure without a network.

The other side is the protocol's rules in plain Python; hypothesis chooses what goes wrong.
"""

from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate import errors
from tidegate.model import Feature, Model, Output
from tidegate.numbering import FloatArray
from tidegate.stepping import Stepper
from tidegate.v1 import tidegate_pb2 as pb

CHUNK = 3


@dataclass
class Rules:
    """A session by the rules of the protocol: it applies, remembers and refuses."""

    depth: int
    applied: list[float] = field(default_factory=list)

    def take(self, request: pb.StepRequest) -> pb.StepReply:
        """Apply or answer one request; outputs tell the step's number and its input."""
        count, first = len(self.applied), request.first_step
        values = list(request.features)
        if first == count:
            self.applied.extend(values)
            return self._reply(first, values, remembered=False)
        if first > count:
            raise self._refusal(pb.REASON_STEP_GAP)
        if first < count - self.depth:
            raise self._refusal(pb.REASON_STEP_TOO_OLD)
        if self.applied[first : first + len(values)] != values:
            raise self._refusal(pb.REASON_STEP_CONFLICT)
        return self._reply(first, values, remembered=True)

    def _reply(self, first: int, values: list[float], *, remembered: bool) -> pb.StepReply:
        outputs = [each for at, x in enumerate(values) for each in (first + at, x)]
        return pb.StepReply(
            first_step=first, steps=len(values), outputs=outputs, remembered=remembered
        )

    def _refusal(self, reason: pb.Reason.ValueType) -> errors.TidegateError:
        kinds = {
            pb.REASON_STEP_GAP: errors.StepGap,
            pb.REASON_STEP_TOO_OLD: errors.StepTooOld,
            pb.REASON_STEP_CONFLICT: errors.StepConflict,
        }
        detail = pb.ErrorDetail(reason=reason, expected_step=len(self.applied))
        return kinds[reason]("refused", detail=detail)


MODEL = Model(
    "m", 1, "", (Feature("x"),), (Output("y", 2, "value"),), CHUNK, device="cpu", max_sessions=1
)
FATES = ("answered", "answered", "answered", "lost before", "lost after", "cancelled after")


class Abandoned(Exception):
    """The caller gave the call up while it was under way."""


def stepper() -> Stepper:
    return Stepper(MODEL, pb.Session(model="m", version=1, session_id="s"))


def column(values: list[float]) -> FloatArray:
    return np.array(values, np.float32).reshape(-1, 1)


def call(stepper: Stepper, rules: Rules, values: list[float], fates: list[str]) -> FloatArray:
    """One call of the client, request after request, each with its fate."""
    run = stepper.run(column(values))
    try:
        request = next(run)
        while True:
            fate = fates.pop() if fates else "answered"
            if fate == "lost before":
                request = run.throw(errors.Unavailable("no connection"))
                continue
            try:
                reply = rules.take(request)
            except errors.TidegateError as error:
                request = run.throw(error)
                continue
            if fate == "cancelled after":
                raise Abandoned
            if fate == "lost after":
                request = run.throw(errors.DeadlineExceeded("too late"))
                continue
            request = run.send(reply)
    except StopIteration as done:
        outputs: FloatArray = done.value
        return outputs


Calls = list[tuple[int | None, int, list[str]]]
calls = st.lists(
    st.tuples(
        st.none() | st.integers(0, 3),  # which of the failed calls is made again, if any
        st.integers(1, 2 * CHUNK + 1),
        st.lists(st.sampled_from(FATES), max_size=4),
    ),
    max_size=12,
)


@settings(max_examples=500, deadline=None)
@given(calls, st.sampled_from([4 * CHUNK, 64]))
def test_answered_calls_are_applied_once_and_in_order_and_failed_ones_at_most_once(
    calls: Calls, depth: int
) -> None:
    rules, client = Rules(depth), stepper()
    fresh = iter(range(1, 1000))
    answered: list[list[float]] = []
    failed: list[list[float]] = []  # since the session last moved, as far as the client knows
    for again, length, fates in [*calls, (0, 1, []), (None, 1, [])]:
        values = [float(next(fresh)) for _ in range(length)]
        if again is not None and failed:
            values = failed[again % len(failed)]
        before = client.steps
        try:
            outputs = call(client, rules, values, list(fates))
        except (errors.TidegateError, Abandoned):
            failed = [*failed, values] if client.steps == before else [values]
            continue
        failed = []
        answered.append(values)
        assert outputs[:, 1].tolist() == values
        numbers = outputs[:, 0].astype(int).tolist()
        assert [rules.applied[at] for at in numbers] == values
        assert numbers == sorted(numbers)
        assert client.steps == len(rules.applied)
    assert len(set(rules.applied)) == len(rules.applied), "a step was applied twice"
    wanted = [value for values in answered for value in values]
    kept = [value for value in rules.applied if value in set(wanted)]
    assert kept == wanted, "an answered step is missing or out of order"


def lose(client: Stepper, rules: Rules, values: list[float]) -> None:
    """A call that the server applies and of which the client never hears again."""
    try:
        call(client, rules, values, ["cancelled after"])
    except Abandoned:
        return
    raise AssertionError("the call was answered")


def test_a_lost_step_made_again_is_answered_from_memory() -> None:
    rules, client = Rules(64), stepper()
    lose(client, rules, [1.0])
    assert client.steps == 0
    assert call(client, rules, [1.0], []).tolist() == [[0.0, 1.0]]
    assert (client.steps, rules.applied) == (1, [1.0])


def test_another_step_after_an_applied_lost_one_takes_the_next_number() -> None:
    rules, client = Rules(64), stepper()
    lose(client, rules, [1.0])
    assert call(client, rules, [2.0], []).tolist() == [[1.0, 2.0]]
    assert rules.applied == [1.0, 2.0]


def test_a_longer_chunk_that_starts_with_the_lost_one_applies_only_the_rest() -> None:
    rules, client = Rules(64), stepper()
    lose(client, rules, [1.0, 2.0])
    assert call(client, rules, [1.0, 2.0, 3.0], [])[:, 0].tolist() == [0.0, 1.0, 2.0]
    assert rules.applied == [1.0, 2.0, 3.0]


def test_a_lost_chunk_made_again_step_by_step_is_answered_from_memory() -> None:
    rules, client = Rules(64), stepper()
    lose(client, rules, [1.0, 2.0, 3.0])
    for at, value in enumerate([1.0, 2.0, 3.0, 4.0]):
        assert call(client, rules, [value], []).tolist() == [[at, value]]
    assert rules.applied == [1.0, 2.0, 3.0, 4.0]


def test_a_lost_chunk_made_again_in_other_portions_is_cut_where_it_ended() -> None:
    rules, client = Rules(64), stepper()
    lose(client, rules, [1.0, 2.0, 3.0])
    call(client, rules, [1.0], [])
    assert call(client, rules, [2.0, 3.0, 4.0], [])[:, 0].tolist() == [1.0, 2.0, 3.0]
    assert rules.applied == [1.0, 2.0, 3.0, 4.0]


def test_a_lost_chunk_left_halfway_through_its_repetition_is_stepped_over() -> None:
    rules, client = Rules(64), stepper()
    lose(client, rules, [1.0, 2.0, 3.0])
    call(client, rules, [1.0], [])
    assert call(client, rules, [9.0], []).tolist() == [[3.0, 9.0]]
    assert rules.applied == [1.0, 2.0, 3.0, 9.0]


def test_a_count_that_no_lost_step_explains_is_a_conflict_for_the_caller() -> None:
    rules, client = Rules(64), stepper()
    lose(client, rules, [1.0])
    rules.applied.append(7.0)  # another writer
    for _ in range(2):
        try:
            call(client, rules, [2.0], [])
        except errors.StepConflict as error:
            assert error.expected_step == 2
        else:
            raise AssertionError("the other writer's step went unnoticed")
    assert rules.applied == [1.0, 7.0]


def test_a_repetition_whose_outputs_are_forgotten_is_refused_rather_than_applied_again() -> None:
    rules, client = Rules(0), stepper()
    lose(client, rules, [1.0])
    for _ in range(2):
        try:
            call(client, rules, [1.0], [])
        except errors.StepTooOld as error:
            assert error.expected_step == 1
        else:
            raise AssertionError("the step was applied again")
    assert call(client, rules, [2.0], []).tolist() == [[1.0, 2.0]]
    assert rules.applied == [1.0, 2.0]


def test_streaming_into_a_dead_connection_keeps_a_bounded_past() -> None:
    rules, client = Rules(64), stepper()
    lose(client, rules, [0.5])
    for value in range(1, 1000):
        try:
            call(client, rules, [float(value)], ["lost before"])
        except errors.Unavailable:
            continue
    assert len(client._numbering._lost) <= 16
    assert call(client, rules, [2000.0], []).tolist() == [[1.0, 2000.0]]


def test_arrays_the_caller_reuses_do_not_change_what_was_sent() -> None:
    rules, client = Rules(64), stepper()
    buffer = column([1.0])
    run = client.run(buffer)
    rules.take(next(run))  # applied, its reply lost
    run.close()
    buffer[0] = 5.0
    assert call(client, rules, [5.0], []).tolist() == [[1.0, 5.0]]
    assert rules.applied == [1.0, 5.0]


def test_a_misfit_between_reply_and_request_is_an_internal_error() -> None:
    run = stepper().run(column([1.0]))
    next(run)
    try:
        run.send(pb.StepReply(first_step=0, steps=1, outputs=[1.0]))
    except errors.Internal as error:
        assert "answered 1 values" in str(error)
    else:
        raise AssertionError("the short reply was taken")
