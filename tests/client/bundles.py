"""The small models that the client's and the command line's tests are served."""

from pathlib import Path

from training.bundle import write_bundle
from training.network import Network, random_network

FEATURES = ("accel_x", "accel_y", "accel_z", "gyro_x", "gyro_y", "gyro_z")
LABELS = ("row", "curl", "press")
CHUNK = 8
MODEL = "exercise"
VALUE_MODEL = "pump"

EXERCISE: Network = random_network(len(FEATURES), 16, 1, len(LABELS), seed=1)
PUMP: Network = random_network(2, 8, 1, 2, seed=2, softmax=False)


def write_repository(folder: Path) -> Path:
    """One model of labels and one of plain values."""
    write_bundle(
        folder / MODEL / "1",
        EXERCISE,
        features=[_feature(name, "g") for name in FEATURES],
        outputs=[
            {
                "name": "exercise",
                "size": len(LABELS),
                "kind": "probability",
                "labels": list(LABELS),
            }
        ],
        max_chunk=CHUNK,
        description="names an exercise",
    )
    write_bundle(
        folder / VALUE_MODEL / "3",
        PUMP,
        features=[_feature("flow", "l/s"), _feature("load", "")],
        outputs=[
            {"name": "temp", "size": 1, "kind": "value", "unit": "F"},
            {"name": "wear", "size": 1, "kind": "value", "unit": ""},
        ],
        max_chunk=CHUNK,
    )
    return folder


def _feature(name: str, unit: str) -> dict[str, object]:
    return {"name": name, "unit": unit, "mean": 0.0, "std": 1.0, "min": -1.0, "max": 1.0}
