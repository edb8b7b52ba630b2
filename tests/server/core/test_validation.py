"""Values that may not be stepped are found in all rows at once, as if each row were looked at."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from server.bundle.feature import Feature
from server.bundle.manifest import Manifest
from server.errors import BadInput
from server.sessions import validation

FEATURES = tuple(Feature(f"x{k}", "", missing=k in (1, 3)) for k in range(5))
MANIFEST = Manifest("m", 1, "", FEATURES, (), (), 8, 64, {})
VALUES = st.sampled_from([0.0, 0.0, 0.0, 1.5, np.inf, -np.inf, np.nan])


@settings(deadline=None, max_examples=200)
@given(lengths=st.lists(st.integers(1, 4), min_size=1, max_size=12), data=st.data())
def test_every_bad_row_is_told_what_it_would_be_told_alone(
    lengths: list[int], data: st.DataObject
) -> None:
    shape = (sum(lengths), 5)
    features = data.draw(arrays.arrays(np.float32, shape, elements=VALUES))
    found: dict[int, BadInput] = {}
    for rows, error in validation.problems(features, np.array(lengths, np.int32), MANIFEST):
        assert not set(rows.tolist()) & set(found)
        found |= dict.fromkeys(rows.tolist(), error)
    start = 0
    for row, length in enumerate(lengths):
        alone = validation.problem(features[start : start + length], MANIFEST)
        assert (row in found) == (alone is not None)
        if alone is not None:
            both = [(str(e), e.field, e.feature, e.index) for e in (alone, found[row])]
            assert both[0] == both[1]
        start += length


def test_rows_that_are_wrong_alike_share_an_error() -> None:
    features = np.full((60_000, 5), np.inf, np.float32)
    ((rows, error),) = validation.problems(features, np.ones(60_000, np.int32), MANIFEST)
    assert rows.tolist() == list(range(60_000))
    assert error.feature == "x0"


@pytest.mark.parametrize("values", [0, 9, 11, 10**7])
def test_a_number_of_values_is_refused_before_they_are_looked_at(values: int) -> None:
    with pytest.raises(BadInput, match="2 x 5 = 10"):
        validation.check_size(values, 2, MANIFEST)
