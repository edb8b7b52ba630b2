"""What the user asked for. A leaf."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BenchPlan:
    """One run."""

    model: str
    version: int
    address: str
    timeout: float
    sessions: int
    seconds: float
    chunk: int
    """Steps a call."""
    rate: float
    """Steps a second of each session; 0: the next call as soon as the last one is answered."""
    json: bool
