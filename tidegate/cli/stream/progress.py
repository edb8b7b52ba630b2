"""How far a run has come: predictions, each session's progress, and the summary that ends it.

Written by the streams, read by the views.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tidegate import Model
from tidegate.cli.common import latency_line, steps_line


@dataclass(frozen=True)
class Prediction:
    """What a step's outputs say."""

    text: str
    label: str | None = None
    """The likeliest label of the model's first output with labels; None where it has none."""
    probability: float | None = None
    values: tuple[float, ...] = ()
    """All that was put out, where the model has no labels."""


class Reader:
    """Reads the outputs of one model."""

    def __init__(self, model: Model) -> None:
        self._spans = []
        start = 0
        for output in model.outputs:
            self._spans.append((output, start, start + output.size))
            start += output.size

    def read(self, outputs: NDArray[np.float32]) -> Prediction:
        """The prediction of one step, by its outputs [O]: the likeliest label, or the values."""
        for output, start, end in self._spans:
            if output.labels:
                best = int(outputs[start:end].argmax())
                label = output.labels[best]
                return Prediction(label, label, float(outputs[start + best]))
        texts = []
        for output, start, end in self._spans:
            values = " ".join(f"{value:.4g}" for value in outputs[start:end])
            texts.append(f"{output.name} {values} {output.unit}".strip())
        return Prediction(", ".join(texts), values=tuple(map(float, outputs)))


@dataclass
class SessionProgress:
    """One session of the run."""

    session: str
    total: int
    done: int = 0
    running: bool = False
    prediction: Prediction | None = None
    truth: str = ""
    judged: int = 0
    correct: int = 0
    right: bool | None = None
    """Whether the last judged step was right."""
    squares: list[float] = field(default_factory=list)
    """Summed squared errors of each value that has a truth, and how often it had one."""
    counts: list[int] = field(default_factory=list)

    def record(self, prediction: Prediction, truths: tuple[str, ...]) -> None:
        """Take in one answered step."""
        self.done += 1
        self.prediction, self.truth = prediction, " ".join(truths)
        if prediction.label is None:
            self._measure(prediction.values, truths)
        elif self.truth:
            self.judged += 1
            self.right = prediction.label == self.truth
            self.correct += self.right

    def _measure(self, values: tuple[float, ...], truths: tuple[str, ...]) -> None:
        if not self.counts:
            self.squares, self.counts = [0.0] * len(truths), [0] * len(truths)
        for k, (value, truth) in enumerate(zip(values, truths, strict=False)):
            if truth:
                self.squares[k] += (value - float(truth)) ** 2
                self.counts[k] += 1

    @property
    def finished(self) -> bool:
        """Whether every step was answered."""
        return self.done == self.total

    @property
    def accuracy(self) -> float | None:
        """The share of its judged steps that were right, so far."""
        return self.correct / self.judged if self.judged else None

    @property
    def rmse(self) -> float | None:
        """The root mean square error of its first value, so far."""
        return rmse_of([self], 0)


def rmse_of(sessions: Sequence[SessionProgress], value: int) -> float | None:
    """The root mean square error of one value over sessions; None where no truth is known."""
    measured = [each for each in sessions if value < len(each.counts)]
    count = sum(each.counts[value] for each in measured)
    return math.sqrt(sum(each.squares[value] for each in measured) / count) if count else None


@dataclass
class Progress:
    """The whole run."""

    sessions: list[SessionProgress]
    measured: tuple[tuple[str, str], ...] = ()
    """Name and unit of each value that has truths, where the model has no labels."""
    latencies: list[float] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.started

    @property
    def steps(self) -> int:
        """Steps answered."""
        return len(self.latencies)

    @property
    def finished(self) -> int:
        """Sessions all of whose steps were answered."""
        return sum(each.finished for each in self.sessions)

    @property
    def accuracy(self) -> float | None:
        """The share of judged steps that were right."""
        judged = sum(each.judged for each in self.sessions)
        return sum(each.correct for each in self.sessions) / judged if judged else None


def summary_lines(progress: Progress, elapsed: float) -> list[str]:
    """The run in a few aligned lines."""
    lines = [f"sessions   {progress.finished:,}", steps_line(progress.steps, elapsed)]
    if progress.accuracy is not None:
        right, judged = session_ends(progress)
        lines.append(
            f"accuracy   {progress.accuracy:.3f} per step"
            + (f", {right / judged:.3f} at session end ({right} of {judged})" if judged else "")
        )
    lines += _errors(progress)
    if progress.latencies:
        milliseconds = np.array(progress.latencies) * 1000
        p50, p90, p99 = np.percentile(milliseconds, [50, 90, 99])
        lines.append(latency_line(p50, p90, p99, milliseconds.max()))
    return lines


def _errors(progress: Progress) -> list[str]:
    """RMSE of each value that has truths."""
    told = []
    for k, (name, unit) in enumerate(progress.measured):
        error = rmse_of(progress.sessions, k)
        told.append(f"{name} {'-' if error is None else f'{error:.5g}'} {unit}".strip())
    return [f"RMSE       {', '.join(told)}"] if told else []


def session_ends(progress: Progress) -> tuple[int, int]:
    """Of how many sessions the last step whose truth is known was right, and how many have one."""
    ends = [each.right for each in progress.sessions if each.finished and each.right is not None]
    return sum(ends), len(ends)
