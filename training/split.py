"""Splits by person: nobody is in both parts, so that accuracy is accuracy on people never seen."""

from __future__ import annotations

from collections.abc import Collection

from training.data import Recording

# Five folds of two people for cross-validation; the shipped bundle holds the last pair out.
FOLDS = ((1, 2), (3, 4), (5, 6), (7, 8), (9, 10))
HELD_OUT = FOLDS[-1]


def by_person(
    recordings: list[Recording], held_out: Collection[int]
) -> tuple[list[Recording], list[Recording]]:
    """(to train on, held out)."""
    train = [recording for recording in recordings if recording.person not in held_out]
    held = [recording for recording in recordings if recording.person in held_out]
    return train, held
