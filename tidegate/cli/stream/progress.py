"""How far a run has come: predictions, each session's progress, and the summary that ends it.

Written by the streams, read by the views.
"""

import time
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
        return Prediction(", ".join(texts))


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

    def record(self, prediction: Prediction, truth: str) -> None:
        """Take in one answered step."""
        self.done += 1
        self.prediction, self.truth = prediction, truth
        if truth and prediction.label is not None:
            self.judged += 1
            self.correct += prediction.label == truth

    @property
    def finished(self) -> bool:
        """Whether every step was answered."""
        return self.done == self.total

    @property
    def accuracy(self) -> float | None:
        """The share of its judged steps that were right, so far."""
        return self.correct / self.judged if self.judged else None


@dataclass
class Progress:
    """The whole run."""

    sessions: list[SessionProgress]
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
            f"accuracy   {progress.accuracy:.3f} per step, "
            f"{right / judged if judged else 0.0:.3f} at session end ({right} of {judged})"
        )
    if progress.latencies:
        milliseconds = np.array(progress.latencies) * 1000
        p50, p90, p99 = np.percentile(milliseconds, [50, 90, 99])
        lines.append(latency_line(p50, p90, p99, milliseconds.max()))
    return lines


def session_ends(progress: Progress) -> tuple[int, int]:
    """How many sessions' final steps were right, and how many could be judged."""
    ends = [
        each.prediction.label == each.truth
        for each in progress.sessions
        if each.finished and each.truth and each.prediction is not None and each.prediction.label
    ]
    return sum(ends), len(ends)
