"""The life of a session's steps without a transport: which requests to send, what replies mean.

Both clients drive the generator of `Stepper.run`: it yields a request, and takes back the reply or,
thrown in, the typed error. So the rules of numbering and retrying stand here once.
"""

import time
from collections.abc import Generator

import numpy as np
from numpy.typing import ArrayLike

from tidegate import errors
from tidegate.model import Model
from tidegate.numbering import FloatArray, Numbering, same_start
from tidegate.v1 import tidegate_pb2 as pb

Run = Generator[pb.StepRequest, pb.StepReply, FloatArray]

# With these the server says that the request was not applied. After any other failure an earlier
# attempt of gRPC's own may have been, even where the last one says "nothing changed".
CERTAIN = (
    errors.BadInput,
    errors.SessionGone,
    errors.StepConflict,
    errors.StepGap,
    errors.UnknownModel,
    errors.UnknownVersion,
)


class Stepper:
    """Cuts a session's observations into requests and keeps its step numbers."""

    def __init__(self, model: Model, session: pb.Session) -> None:
        self.model = model
        self._session = session
        self._numbering = Numbering(session.steps)
        # The part of a chunk that was answered before the rest of it failed: nobody has seen it.
        self._unread = (
            np.empty((0, len(model.features)), np.float32),
            np.empty((0, model.width), np.float32),
        )

    @property
    def steps(self) -> int:
        """Steps applied, as far as is known; the next step's number."""
        return self._numbering.number

    def one(self, features: ArrayLike) -> FloatArray:
        """One observation as a chunk of one step."""
        array = _floats(features)
        if array.shape != (len(self.model.features),):
            raise errors.bad_input(f"step() of {self._shape('{}')}, not {_found(array)}")
        return array.reshape(1, -1)

    def many(self, features: ArrayLike) -> FloatArray:
        """Several observations, step after step."""
        array = _floats(features)
        if array.ndim != 2 or array.shape[1] != len(self.model.features):
            raise errors.bad_input(f"chunk() of {self._shape('[steps, {}]')}, not {_found(array)}")
        return array

    def run(self, steps: FloatArray) -> Run:
        """Apply `steps` and return their outputs, one request after the other."""
        steps, outputs = steps.copy(), np.empty((len(steps), self.model.width), np.float32)
        done = self._recall(steps, outputs)
        while done < len(steps):
            piece = self._numbering.piece(steps[done:], self.model.max_chunk)
            try:
                outputs[done : done + len(piece)] = yield from self._apply(piece)
            except errors.BadInput as error:
                error.offset = done
                raise
            done += len(piece)
            self._unread = (steps[:done], outputs[:done])
        self._unread = (self._unread[0][done:], self._unread[1][done:])
        return outputs

    def _recall(self, steps: FloatArray, outputs: FloatArray) -> int:
        """Fill in what is known of a chunk that failed halfway and is sent again; say how much."""
        features, known = self._unread
        if not same_start(features, steps):
            return 0
        common = min(len(features), len(steps))
        outputs[:common] = known[:common]
        return common

    def _apply(self, piece: FloatArray) -> Generator[pb.StepRequest, pb.StepReply, FloatArray]:
        """Send one request until it is answered or failed for good."""
        while True:
            self._numbering.send(piece)
            try:
                reply = yield self._request(piece)
            except errors.WrongStep as error:
                forgotten = isinstance(error, errors.StepTooOld)
                if self._numbering.resolve(piece, error.expected_step, forgotten=forgotten):
                    continue
                self._fail(error)
                raise
            except errors.TidegateError as error:
                self._fail(error)
                raise
            return self._outputs(piece, reply)

    def _fail(self, error: errors.TidegateError) -> None:
        if isinstance(error, CERTAIN):
            self._numbering.refused()

    def _request(self, piece: FloatArray) -> pb.StepRequest:
        return pb.StepRequest(
            model=self._session.model,
            version=self._session.version,
            session_id=self._session.session_id,
            first_step=self._numbering.number,
            steps=len(piece),
            features=piece.ravel().tolist(),
        )

    def _outputs(self, piece: FloatArray, reply: pb.StepReply) -> FloatArray:
        outputs = np.array(reply.outputs, dtype=np.float32)
        if (
            reply.first_step != self._numbering.number
            or outputs.size != len(piece) * self.model.width
        ):
            raise errors.Internal(
                f"the server answered {outputs.size} values from step {reply.first_step} to a "
                f"request of {len(piece)} steps from {self._numbering.number}"
            )
        self._numbering.answered(piece, remembered=reply.remembered)
        return outputs.reshape(len(piece), self.model.width)

    def _shape(self, shape: str) -> str:
        names = self.model.feature_names
        listed = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        return f"{self.model.name} takes {shape.format(len(names))} features ({listed})"


def _floats(features: ArrayLike) -> FloatArray:
    try:
        with np.errstate(over="ignore"):  # too large for float32 is infinite: the server's to judge
            return np.asarray(features, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise errors.bad_input(f"features are not numbers: {error}") from error


def _found(array: FloatArray) -> str:
    return f"an array of shape {list(array.shape)}"


class Deadline:
    """The time left of a timeout that several requests share."""

    def __init__(self, timeout: float) -> None:
        self._end = time.monotonic() + timeout

    def left(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._end - time.monotonic())
