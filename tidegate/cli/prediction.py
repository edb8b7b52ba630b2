"""Puts a step's output values into words: the likeliest label, or the plain values."""

from dataclasses import dataclass

from tidegate.model import FloatArray, Model


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

    def read(self, outputs: FloatArray) -> Prediction:
        """The prediction of one step."""
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
