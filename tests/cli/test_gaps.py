"""Files with gaps and labels: an empty cell is NaN where it may be, and a label is its index."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.cli.running import tidegate
from tests.harness import running_server
from tests.server.gaps import gappy_model
from tidegate.cli.csvfile import Columns, read_recordings
from tidegate.cli.failure import BadFile
from tidegate.model import Feature

SPEED = Feature("speed", "m/s", missing=True)
SIDE = Feature("side", labels=("left", "right"))
TYPE = Feature("type", missing=True, labels=("5", "7"))
COLUMNS = Columns("id", (SPEED, SIDE, TYPE))


def test_empty_cells_are_missing_and_labels_are_indices(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("id,speed,side,type\na,1.5,right,5\na, ,left,\na,,upper,7\na,2,left\n")
    (recording,) = read_recordings(file, COLUMNS)
    expected = [[1.5, 1, 0], [np.nan, 0, np.nan], [np.nan, -1, 1], [2, 0, np.nan]]
    np.testing.assert_array_equal(recording.features, np.array(expected, np.float32))


@pytest.mark.parametrize(
    ("row", "says"),
    [("a,1,,5", "column 'side': the cell is empty"), ("a,fast,left,5", "'fast' is not a number")],
)
def test_other_empty_cells_and_texts_are_refused(tmp_path: Path, row: str, says: str) -> None:
    file = tmp_path / "mine.csv"
    file.write_text(f"id,speed,side,type\n{row}\n")
    with pytest.raises(BadFile, match=f"row 2, .*{says}"):
        read_recordings(file, COLUMNS)


def test_a_file_with_gaps_streams_and_models_tells_where_they_may_be(tmp_path: Path) -> None:
    gappy_model(tmp_path / "models")
    file = tmp_path / "mine.csv"
    file.write_text("id,x0,x1,x2,x3,x4\na,1,,3,4,left\na,1,2,3,,right\nb,1,,3,,left\n")
    with running_server(tmp_path / "models") as server:
        where = ["--address", server.address]
        done = tidegate("stream", file, "--session-column", "id", "--model", "small", *where)
        assert (done.returncode, done.stderr) == (0, "")
        assert "steps      3 in" in done.stdout
        told = tidegate("models", *where).stdout
    features = "x0, x1 (may be missing), x2, x3 (may be missing), x4 (left | right)"
    assert f"  features    {features}\n" in told
