"""Whatever is wrong with a table is said in one sentence that names the column and the row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.training.tables import HEADER, recipe, rows, write_table
from training.errors import TrainingError
from training.table.dataset import load


def refused(file: Path, *overrides: str) -> str:
    """What loading the table is refused with."""
    with pytest.raises(TrainingError) as caught:
        load(recipe(file, *overrides))
    text = str(caught.value)
    assert "\n" not in text
    return text


def broken(tmp_path: Path, row: int, column: int, value: Any) -> Path:
    """A table whose value in one row, counted from 1, is another one."""
    table = rows()
    table[row - 1][column] = value
    return write_table(tmp_path / "table.csv", table)


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    assert refused(write_table(tmp_path / "table.csv", [])) == "table.csv has no rows"
    (tmp_path / "table.csv").write_text("")
    assert refused(tmp_path / "table.csv") == "table.csv has no rows"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a,b\n1,2\n1,2,3\n", "row 2 has 3 values; the header names 2 columns"),
        (b"a,b\n1,2\n1,\xff\n", "row 2 is not UTF-8"),
        (b"a,\xff\n1,2\n", "the header is not UTF-8"),
        (b"a,a\n1,2\n", "two columns are called 'a'"),
        (b"a,b,__row__\n1,2,3\n", "no column may be called '__row__'"),
        (b"a,b,c\n1,2,3\n\n4,5\n6,7,\n", "row 2 has 2 values; the header names 3 columns"),
    ],
    ids=lambda each: each.decode(errors="replace")[:8] if isinstance(each, bytes) else "",
)
def test_rubbish_in_a_csv_file_is_said_with_its_row(
    tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "table.csv").write_bytes(content)
    assert refused(tmp_path / "table.csv") == f"table.csv cannot be read: {said}"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in refused(tmp_path / "gone.csv")


def test_a_package_that_is_not_installed_is_named(tmp_path: Path) -> None:
    file = write_table(tmp_path / "table.csv", rows())
    text = refused(file, "source.package=no_such_package")
    assert text == "the package no_such_package is not installed; it holds the data"


@pytest.mark.parametrize("content", [b"PAR1 rubbish", b"\x00\xff" * 50])
def test_rubbish_in_place_of_parquet_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "table.parquet").write_bytes(content)
    assert refused(tmp_path / "table.parquet").startswith("table.parquet cannot be read")


def test_rubbish_in_place_of_gzip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "table.json.gz").write_bytes(b"no gzip")
    assert refused(tmp_path / "table.json.gz").startswith("table.json.gz is no gzip file")


def test_an_unknown_kind_of_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "table.xlsx").write_bytes(b"x")
    assert ".xlsx is not one of .csv, .json, .ndjson, .parquet" in refused(tmp_path / "table.xlsx")


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("table.session=gone", "'gone' (table.session)"),
        ("table.order=gone", "'gone' (table.order)"),
        ("features.gone={}", "'gone' (features.gone)"),
        ("target.columns=['gone']", "'gone' (target)"),
        ("split={by='group', group='gone'}", "'gone' (split.group)"),
    ],
)
def test_a_column_that_is_not_there_is_named_with_those_there_are(
    tmp_path: Path, override: str, named: str
) -> None:
    text = refused(write_table(tmp_path / "table.csv", rows()), override)
    assert text == f"table.csv has no column {named}; it has device, second, load, mode, state"


@pytest.mark.parametrize(
    ("column", "value", "named"),
    [
        (0, "", "column 'device': the value is missing; table.session does not allow it"),
        (1, "soon", "column 'second': 'soon' is neither a number nor a time"),
        (1, "", "column 'second': the value is missing"),
        (2, "much", "column 'load': 'much' is no number"),
        (2, "nan", "column 'load': the value is missing; features.load does not allow it"),
        (2, "NA", "column 'load': the value is missing; features.load does not allow it"),
        (2, "inf", "column 'load': the value is infinite"),
        (2, "1e39", "column 'load': 1e+39 is too large: float32 ends at 3.4e38"),
        (2, "-1e39", "column 'load': -1e+39 is too large: float32 ends at 3.4e38"),
        (3, "", "column 'mode': the value is missing; features.mode does not allow it"),
        (4, "", "column 'state': the value is missing; target does not allow it"),
    ],
)
def test_a_bad_value_is_named_by_row_and_column(
    tmp_path: Path, column: int, value: str, named: str
) -> None:
    text = refused(broken(tmp_path, 31, column, value))
    assert text.startswith(f"table.csv, row 31, {named}")


def test_two_rows_of_one_time_are_named(tmp_path: Path) -> None:
    text = refused(broken(tmp_path, 31, 1, 5))
    assert text == (
        "table.csv, rows 30 and 31: session 'd2' has two rows of the same 'second' "
        "(table.duplicates may keep the first, last or mean)"
    )


def test_a_session_of_one_row_is_named_or_left_out(tmp_path: Path) -> None:
    file = write_table(tmp_path / "table.csv", [*rows(), ["lonely", 0, 1.0, "a", "up"]])
    assert "row 73: session 'lonely' has 1 row(s), fewer than 2" in refused(file)
    dataset = load(recipe(file, "table.drop_short=true"))
    assert "lonely" not in {session.name for session in dataset.train}


def test_a_constant_feature_is_named(tmp_path: Path) -> None:
    table = rows()
    for row in table[12:]:  # the first session is held out, and may differ
        row[2] = 3
    text = refused(write_table(tmp_path / "table.csv", table), "split.validation=[]")
    assert text.startswith("table.csv, column 'load': it is 3 in all of the training part")
    for row in table:
        row[3] = "a"
    text = refused(write_table(tmp_path / "table.csv", table), "features={mode={embedding=1}}")
    assert text.startswith("table.csv, column 'mode': it is a in all of the training part")


@pytest.mark.parametrize("kind", ["value", "next"])
def test_a_target_that_never_changes_is_named(tmp_path: Path, kind: str) -> None:
    table = [[*row, 3 if row[0] != "d0" else row[1]] for row in rows()]
    file = write_table(tmp_path / "table.csv", table, HEADER.strip() + ",flow\n")
    target = f"target={{kind='{kind}', columns=['flow']}}"
    more = ["features={flow={}, load={}}"] if kind == "next" else []
    text = refused(file, target, *more)
    assert text.startswith("table.csv, column 'flow': ")
    assert "3 in all of the training part" in text


def test_a_target_unseen_in_training_is_named(tmp_path: Path) -> None:
    text = refused(broken(tmp_path, 7, 4, "sideways"))
    assert text == (
        "table.csv, row 7, column 'state': 'sideways', in the test part, "
        "is not in the training part"
    )


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    table = [[*row[:4], "up"] for row in rows()]
    assert "there is only one class, 'up'" in refused(write_table(tmp_path / "table.csv", table))


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("split.test=['d9']", "split.test: there is no 'd9' in the table"),
        ("split.test=['d1']", "split: d1 is both in test and in validation"),
        ("split.test=0.9", "split: of 6 sessions none is left to train on"),
        ("split={by='time', test=['d1']}", "split by time takes shares, not names"),
        ("split={by='time', test=0.6, validation=0.5}", "split: 0.6 and 0.5 leave nothing"),
    ],
)
def test_a_split_that_cannot_be_is_refused(tmp_path: Path, override: str, text: str) -> None:
    file = write_table(tmp_path / "table.csv", rows())
    overrides = ["split.validation=['d1']", override]
    if override == "split.test=0.9":
        overrides = [override, "split.validation=0.1"]
    assert refused(file, *overrides).startswith(text)


def test_a_session_of_two_groups_is_refused(tmp_path: Path) -> None:
    table = [[*row, "x" if k % 12 < 6 else "y"] for k, row in enumerate(rows())]
    header = HEADER.strip() + ",site\n"
    file = write_table(tmp_path / "table.csv", table, header)
    text = refused(file, "split={by='group', group='site', test=0.3, validation=0.3}")
    assert text == "table.csv, row 7: the session is of more than one group"


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("gone > 1", ""),
        ("load >", ""),
        ("load + 1", "'load + 1' is no condition, but a value"),
        ("load > 1000", "'load > 1000' holds for no row"),
    ],
)
def test_a_bad_condition_is_named(tmp_path: Path, condition: str, said: str) -> None:
    file = write_table(tmp_path / "table.csv", rows())
    text = refused(file, f"table.where='{condition}'")
    assert text.startswith(f"table.csv: table.where: {said}")


@pytest.mark.parametrize("text", ["03/04/2021", "3.4.2021 10:00", "13/04/2021", "01-02-21"])
def test_a_time_that_may_be_read_in_two_ways_is_refused(tmp_path: Path, text: str) -> None:
    said = refused(write_table(tmp_path / "table.csv", dated([text] * 12)))
    assert said == (
        f"table.csv, row 1, column 'second': {text!r} may be read with the day or the month first; "
        'say which, as table.time_format = "%m/%d/%Y"'
    )


def test_a_day_month_and_year_run_together_are_no_number(tmp_path: Path) -> None:
    said = refused(write_table(tmp_path / "table.csv", dated(["11122020", "05012021"] * 6)))
    assert said == (
        "table.csv, row 1, column 'second': '11122020' may be read with the day or the month "
        'first; say which, as table.time_format = "%m%d%Y"'
    )


def test_a_time_of_another_format_than_the_stated_is_named(tmp_path: Path) -> None:
    file = write_table(tmp_path / "table.csv", dated(["03/04/2021", "30/04/2021"]))
    text = refused(file, 'table.time_format="%m/%d/%Y"')
    assert text == (
        "table.csv, row 2, column 'second': '30/04/2021' is not a time of table.time_format "
        "'%m/%d/%Y'"
    )


def dated(texts: list[str]) -> list[list[Any]]:
    """A table of these times."""
    return [[row[0], text, *row[2:]] for row, text in zip(rows(), texts, strict=False)]


def test_a_bad_derivation_is_named(tmp_path: Path) -> None:
    file = write_table(tmp_path / "table.csv", rows())
    assert refused(file, "table.derive={x='load + gone'}").startswith("table.csv: table.derive.x: ")
