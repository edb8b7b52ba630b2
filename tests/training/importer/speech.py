"""Real speech, and the real Silero model stepped as its authors do."""

from __future__ import annotations

import wave
from importlib.metadata import files
from pathlib import Path

import numpy as np
import onnxruntime

from training.network import Floats

RECORDINGS = Path("/usr/share/pocketsphinx/test/data")  # Debian's pocketsphinx-testdata
RATE, FRAME, CONTEXT = 16000, 512, 64


def silero() -> Path:
    """The model file of the package silero-vad."""
    (found,) = [each for each in files("silero-vad") or () if each.name == "silero_vad.onnx"]
    return Path(str(found.locate()))


def pieces(count: int, shortest: int) -> list[Floats]:
    """Different pieces of the recordings, frames [T, 512], T from `shortest` to a third more."""
    speech = np.concatenate([_samples(path) for path in sorted(RECORDINGS.rglob("*.wav"))])
    lengths = shortest + np.arange(count) % (shortest // 3)
    starts = np.linspace(0, len(speech) - lengths.max() * FRAME, count).astype(int)
    assert len(set(starts)) == count
    return [
        speech[start : start + length * FRAME].reshape(length, FRAME)
        for start, length in zip(starts, lengths, strict=True)
    ]


def one_call_at_a_time(calls: list[Floats]) -> list[Floats]:
    """The probabilities [T] of each call by plain onnxruntime, context and state kept by hand."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(silero()), options)
    return [_call(session, frames) for frames in calls]


def _call(session: onnxruntime.InferenceSession, frames: Floats) -> Floats:
    state, before = np.zeros((2, 1, 128), np.float32), np.zeros((1, CONTEXT), np.float32)
    found = []
    for frame in frames:
        whole = np.concatenate([before, frame[None]], axis=1)
        feeds = {"input": whole, "state": state, "sr": np.array(RATE, np.int64)}
        output, state = session.run(["output", "stateN"], feeds)
        before = whole[:, -CONTEXT:]
        found.append(output[0, 0])
    return np.array(found, np.float32)


def _samples(path: Path) -> Floats:
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
        raw = file.readframes(file.getnframes())
    return np.frombuffer(raw, "<i2").astype(np.float32) / np.float32(32768)
