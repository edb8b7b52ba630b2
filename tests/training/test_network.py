"""network.npz holds a network whole, and is not trusted."""

from __future__ import annotations

import io
import pickle
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.graphs.networks import NETWORKS
from training.errors import TrainingError
from training.network import network_from_bytes, network_to_bytes


def equal(ours: object, theirs: object) -> bool:
    if isinstance(ours, np.ndarray):
        return np.array_equal(ours, theirs)  # type: ignore[arg-type]
    if isinstance(ours, tuple) and isinstance(theirs, tuple):
        return len(ours) == len(theirs) and all(map(equal, ours, theirs))
    if hasattr(ours, "__dataclass_fields__"):
        names = [each.name for each in fields(ours)]  # type: ignore[arg-type]
        return all(equal(getattr(ours, name), getattr(theirs, name)) for name in names)
    return bool(ours == theirs)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_comes_back_as_it_was_in_the_same_bytes(name: str) -> None:
    content = network_to_bytes(NETWORKS[name])
    found = network_from_bytes(content)
    assert equal(found, NETWORKS[name])
    assert network_to_bytes(found) == content


@given(content=st.binary(max_size=200))
def test_rubbish_is_refused(content: bytes) -> None:
    with pytest.raises(TrainingError, match=r"network\.npz does not hold a network"):
        network_from_bytes(content)


@pytest.mark.parametrize("cut", [10, 500, -40])
def test_a_file_cut_short_is_refused(cut: int) -> None:
    with pytest.raises(TrainingError, match="does not hold a network"):
        network_from_bytes(network_to_bytes(NETWORKS["lstm"])[:cut])


def test_nothing_pickled_is_loaded() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, structure=np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(TrainingError, match="does not hold a network"):
        network_from_bytes(buffer.getvalue())
    with pytest.raises(TrainingError, match="does not hold a network"):
        network_from_bytes(pickle.dumps(1))
