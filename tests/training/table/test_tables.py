"""A table becomes sessions: ordered, cut, encoded, shifted and split as the recipe says."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.tables import HEADER, recipe, rows, write_table
from training.errors import TrainingError
from training.recipe.recipe import Split, from_mapping, read_recipe, to_mapping
from training.recipes import find_recipe, pedestrians
from training.table.dataset import load
from training.table.segments import TEST, TRAIN, VALIDATION, by_time, by_unit
from training.table.session import Dataset, Session

KINDS = ("csv", "parquet", "json", "ndjson", "csv.gz", "json.gz")


def every(dataset: Dataset) -> list[Session]:
    return [*dataset.train, *dataset.validation, *dataset.test]


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_of_files_hold_the_same_table(tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"table.{kind}"
    frame = pl.DataFrame(rows(), schema=HEADER.strip().split(","), orient="row")
    plain = tmp_path / f"plain.{kind.removesuffix('.gz')}"
    getattr(frame, f"write_{plain.suffix[1:]}")(plain)
    content = plain.read_bytes()
    file.write_bytes(gzip.compress(content) if kind.endswith(".gz") else content)
    dataset = load(recipe(file))
    table = [row for row in rows() if row[0] == "d4"]
    session = next(each for each in dataset.train if each.name == "d4")
    np.testing.assert_allclose(session.x[:, 0], [row[2] for row in table], rtol=1e-6)
    assert list(session.x[:, 1]) == ["abc".index(row[3]) for row in table]
    assert list(session.y[:, 0]) == [["down", "up"].index(row[4]) for row in table]


def test_rows_in_any_order_make_the_same_sessions(tmp_path: Path) -> None:
    table = rows()
    straight = load(recipe(write_table(tmp_path / "a.csv", table)))
    np.random.default_rng(0).shuffle(table)
    mixed = load(recipe(write_table(tmp_path / "b.csv", table)))
    for one, other in zip(every(straight), every(mixed), strict=True):
        assert one.name == other.name
        np.testing.assert_array_equal(one.x, other.x)
        np.testing.assert_array_equal(one.order, other.order)


def test_a_gap_ends_a_session(tmp_path: Path) -> None:
    table = [[row[0], row[1] + (100 if row[1] >= 7 else 0), *row[2:]] for row in rows()]
    dataset = load(recipe(write_table(tmp_path / "t.csv", table), "table.gap=10"))
    assert sorted(session.name for session in dataset.test) == ["d0#0", "d0#1"]
    assert [len(session) for session in dataset.test] == [7, 5]


def test_times_are_seconds(tmp_path: Path) -> None:
    start = datetime(2013, 1, 1, tzinfo=UTC)
    table = [[row[0], (start + timedelta(hours=row[1])).isoformat(), *row[2:]] for row in rows()]
    dataset = load(recipe(write_table(tmp_path / "t.csv", table), "table.gap=3600"))
    assert [len(session) for session in dataset.test] == [12]
    assert dataset.test[0].order[0] == start.timestamp()
    np.testing.assert_array_equal(np.diff(dataset.test[0].order), 3600.0)


def test_times_are_read_as_the_recipe_says_not_as_they_look(tmp_path: Path) -> None:
    start = datetime(2021, 1, 27, tzinfo=UTC)  # the days of a month that may be months, too
    days = [start + timedelta(days=k) for k in range(12)]
    for time_format in ("%m/%d/%Y", "%d/%m/%Y", "%d.%m.%y", "%d %b %Y"):
        table = [[row[0], days[row[1]].strftime(time_format), *row[2:]] for row in rows()]
        file = write_table(tmp_path / "t.csv", table)
        session = load(recipe(file, f"table.time_format={time_format!r}")).test[0]
        assert list(session.order) == [day.timestamp() for day in days]
        assert list(session.x[:, 0]) == [np.float32(row[2]) for row in table[:12]]


@pytest.mark.parametrize(
    ("duplicates", "load_of_it", "mode_of_it", "up"),
    [("first", 1.0, 0, 1), ("last", 4.0, 2, 0), ("mean", 2.5, 0, 1)],
)
def test_of_rows_of_one_time_the_one_asked_for_stays(
    tmp_path: Path, duplicates: str, load_of_it: float, mode_of_it: int, up: int
) -> None:
    table = rows()
    table[3][2:] = [1.0, "a", "up"]
    table.append([*table[3][:2], 4.0, "c", "down"])
    file = write_table(tmp_path / "t.csv", table)
    session = load(recipe(file, f"table.duplicates={duplicates!r}")).test[0]
    assert list(session.order) == list(range(12))
    assert session.x[3].tolist() == [load_of_it, mode_of_it]
    assert session.y[3].tolist() == [up]


def test_a_mean_is_of_what_is_known_and_still_names_what_is_no_number(tmp_path: Path) -> None:
    table = rows()
    table[3][2] = 1.0
    table.append([*table[3][:2], "", *table[3][3:]])
    file = write_table(tmp_path / "t.csv", table)
    assert load(recipe(file, "table.duplicates=mean")).test[0].x[3, 0] == 1.0
    table[-1][2] = "much"
    write_table(file, table)
    with pytest.raises(TrainingError, match=r"t\.csv, row 73, column 'load': 'much' is no number"):
        load(recipe(file, "table.duplicates=mean"))


def test_rows_are_chosen_by_a_condition_and_keep_their_numbers(tmp_path: Path) -> None:
    table = rows()
    table[5][3] = ""
    file = write_table(tmp_path / "t.csv", table)
    dataset = load(recipe(file, "table.where=\"second < 9 AND mode <> 'b'\""))
    kept = [row for row in table if row[1] < 9 and row[3] not in ("b", "")]
    assert sum(map(len, every(dataset))) == len(kept)
    assert dataset.features[1].labels == ("a", "c")
    table[71][2], table[70][1] = "much", 20
    write_table(file, table)
    with pytest.raises(TrainingError, match=r"row 72, column 'load': 'much' is no number"):
        load(recipe(file, "table.where='second > 2'"))


def test_empty_lines_of_a_csv_file_are_no_rows(tmp_path: Path) -> None:
    file = write_table(tmp_path / "t.csv", rows())
    plain = load(recipe(file))
    file.write_text(file.read_text().replace("\nd3,", "\n\nd3,") + "\n\n")
    assert sum(map(len, every(load(recipe(file))))) == sum(map(len, every(plain)))


def test_the_target_of_a_step_is_read_horizon_steps_later(tmp_path: Path) -> None:
    file = write_table(tmp_path / "t.csv", rows())
    target = "target={kind='next', columns=['load'], horizon=3, difference=true}"
    dataset = load(recipe(file, target))
    for session in every(dataset):
        np.testing.assert_array_equal(session.y[:-3, 0], session.x[3:, 0])
        assert np.isnan(session.y[-3:]).all()
    assert (dataset.target.add, dataset.target.units) == ((0,), ("V",))


def test_of_several_horizons_each_value_is_read_at_its_own(tmp_path: Path) -> None:
    file = write_table(tmp_path / "t.csv", rows())
    target = "target={kind='next', columns=['load'], horizon=[1, 4], difference=true}"
    dataset = load(recipe(file, target))
    assert dataset.target.names == ("load", "load_in_4")
    assert (dataset.target.horizons, dataset.target.units) == ((1, 4), ("V", "V"))
    assert dataset.target.add == (0, 0)
    for session in every(dataset):
        for k, steps in enumerate((1, 4)):
            np.testing.assert_array_equal(session.y[:-steps, k], session.x[steps:, 0])
            assert np.isnan(session.y[-steps:, k]).all()
    far = load(recipe(file, "target={kind='next', columns=['load'], horizon=[3]}"))
    assert far.target.names == ("load_in_3",)  # no forecast takes it for the next step
    near = load(recipe(file, "target={kind='value', columns=['load'], horizon=[0, 1]}"))
    assert near.target.names == ("load", "load_in_1")


def test_missing_values_are_nan_where_they_are_allowed(tmp_path: Path) -> None:
    table = rows()
    table[30][2], table[40][3], table[50][4] = "NA", "", "NA"
    file = write_table(tmp_path / "t.csv", table)
    allowed = ("features.load.missing=true", "features.mode.missing=true", "target.missing=true")
    dataset = load(recipe(file, *allowed))
    x = np.concatenate([session.x for session in dataset.train])
    y = np.concatenate([session.y for session in dataset.train])
    assert np.isnan(x).sum(axis=0).tolist() == [1, 1]
    assert np.isnan(y).sum() == 1
    assert dataset.features[1].labels == ("a", "b", "c")


def test_truths_are_one_and_zero_in_csv_as_in_parquet(tmp_path: Path) -> None:
    table = [[*row[:2], row[4] == "up", *row[3:]] for row in rows()]
    frame = pl.DataFrame(table, schema=HEADER.strip().split(","), orient="row")
    frame.write_parquet(tmp_path / "t.parquet")
    capital = write_table(tmp_path / "capital.csv", table)
    small = write_table(tmp_path / "small.csv", [[str(v).lower() for v in row] for row in table])
    for file in (tmp_path / "t.parquet", capital, small):
        session = load(recipe(file)).test[0]
        assert list(session.x[:, 0]) == [row[2] for row in table if row[0] == session.name]


def test_a_category_that_training_has_not_seen_is_unknown(tmp_path: Path) -> None:
    table = rows()
    table[3][3] = "z"  # of d0, which is held out
    dataset = load(recipe(write_table(tmp_path / "t.csv", table)))
    assert dataset.features[1].labels == ("a", "b", "c")
    assert np.isnan(dataset.test[0].x[3, 1])


def test_numbers_as_labels_are_in_their_order(tmp_path: Path) -> None:
    table = [[*row[:4], [2, 10, 9][k % 3]] for k, row in enumerate(rows())]
    dataset = load(recipe(write_table(tmp_path / "t.csv", table)))
    assert dataset.target.labels == ("2", "9", "10")


@given(
    st.lists(st.integers(0, 30), min_size=12, max_size=200),
    st.floats(0, 0.4), st.floats(0, 0.4), st.integers(0, 99),
)  # fmt: skip
def test_no_unit_is_in_two_parts(
    units: list[int], test: float, validation: float, seed: int
) -> None:
    names = np.array([str(unit) for unit in [*range(12), *units]])
    parts = by_unit(names, Split(test=test, validation=validation, seed=seed))
    for name in np.unique(names):
        assert len(set(parts[names == name])) == 1
    assert (parts == TRAIN).any()
    assert (parts == TEST).any() == (test > 0)
    assert (parts == VALIDATION).any() == (validation > 0)


@given(st.lists(st.integers(0, 1000), min_size=30, unique=True), st.floats(0.1, 0.4))
def test_a_split_by_time_never_trains_on_what_comes_later(times: list[int], share: float) -> None:
    order = np.array(times, dtype=np.float64)
    parts = by_time(order, Split(by="time", test=share, validation=share))
    assert order[parts == TRAIN].max() < order[parts == VALIDATION].min()
    assert order[parts == VALIDATION].max() < order[parts == TEST].min()


def test_sessions_are_cut_where_time_splits_them_and_targets_do_not_reach_over(
    tmp_path: Path,
) -> None:
    file = write_table(tmp_path / "t.csv", rows())
    dataset = load(recipe(file, "split={by='time', test=0.25, validation=0.25}",
                          "target={kind='next', columns=['load']}"))  # fmt: skip
    assert len(dataset.train) == len(dataset.validation) == len(dataset.test) == 6
    for session in every(dataset):
        assert np.isnan(session.y[-1]).all()
        np.testing.assert_array_equal(session.y[:-1, 0], session.x[1:, 0])


def test_the_ready_recipes_read_the_published_sets() -> None:
    exercise, weather, flights, walks = (
        load(read_recipe(find_recipe(name)))
        for name in ("exercise", "weather", "flights", "pedestrians")
    )
    assert len(every(exercise)) == 140
    assert sum(map(len, every(exercise))) == 122_083
    assert {session.group for session in exercise.test} == {"9", "10"}
    assert not {"9", "10"} & {session.group for session in exercise.train}
    assert sum(map(len, every(weather))) == 26_115
    assert {session.group for session in weather.train} == {"EWR", "JFK", "LGA"}
    groups = [{session.group for session in part}
              for part in (flights.train, flights.validation, flights.test)]  # fmt: skip
    assert len(set.union(*groups)) == sum(map(len, groups)) == 842
    assert sum(map(len, every(flights))) == 139_098
    assert max(np.diff(session.order).max() for session in every(flights)) <= 60_000
    assert sum(map(len, every(walks))) == 368_529
    for part in (walks.train, walks.validation, walks.test):
        assert len({session.group for session in part}) == len(part) == 21
    people, week_ago = walks.train[0].x[:, :2].T
    np.testing.assert_array_equal(week_ago[200:400], people[200 - 167 : 400 - 167])


def test_hours_of_pedestrians_follow_each_other_whatever_their_dates_say() -> None:
    labels = [("01-01", 22), ("01-01", 23), ("01-01", 0), ("07-09", 1), ("01-01", 3), ("01-01", 4)]
    lines = [f"2019-{day},{hour}:00-{hour}:59,2019,{k},{k + 10 if k else ''}"
             for k, (day, hour) in enumerate(labels)]  # fmt: skip
    table = pedestrians.read("\n".join(["date,hour,year,1 K Road,2 K Road", *lines]).encode())
    for sensor, first in (("1 K Road", 0), ("2 K Road", None)):
        mine = table.filter(sensor=sensor)
        began = [time - datetime(2019, 1, 1) for time in mine["time"]]
        assert began == [timedelta(hours=hour) for hour in (22, 23, 24, 25, 27, 28)]
        assert mine["hour"].to_list() == [hour for _, hour in labels]
        assert mine["weekday"].to_list() == [2, 2, 3, 3, 3, 3]
        assert mine["people"][0] == first


def test_a_recipe_survives_the_manifest() -> None:
    for name in ("exercise", "weather", "flights", "pedestrians"):
        whole = read_recipe(find_recipe(name))
        assert from_mapping(json.loads(json.dumps(to_mapping(whole)))) == whole
