"""How far each session of a run has come. Written by the streams, read by the views and summary."""

import time
from dataclasses import dataclass, field

from tidegate.cli.prediction import Prediction


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
