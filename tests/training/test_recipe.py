"""A recipe that does not fit is refused with the setting's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.tables import recipe, write_recipe
from training.errors import TrainingError
from training.recipe.recipe import read_recipe
from training.recipes import find_recipe

VALUES, LEVELS = "target={kind='next', columns=['load']", "target.quantiles must"


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("loop.epochs=0", "loop.epochs must be at least 1, not 0"),
        ("loop.epochs='many'", "loop.epochs must be a whole number, not 'many'"),
        ("loop.epochs=1.5", "loop.epochs must be a whole number, not 1.5"),
        ("loop.epocs=3", "loop.epocs is no setting; there are epochs, batch, window,"),
        ("network.cell='lstn'", "network.cell must be one of lstm, gru, rnn, not 'lstn'"),
        ("network.dropout=1.0", "network.dropout must be from 0 to below 1, not 1.0"),
        ("network={cell='gru', hidden=9, projection=8}", "network.projection is for cell lstm"),
        ("network={hidden=8, projection=8}", "network.projection must be below hidden, 8"),
        ("target.kind='guess'", "target.kind must be one of class, value, next, not 'guess'"),
        ("target.columns=[]", "target.columns must name one column of classes"),
        ("target={kind='next', horizon=0}", "target.horizon must be at least 1"),
        ("target={kind='next', horizon=[0, 6]}", "target.horizon must be at least 1"),
        ("target={kind='next', horizon=[6, 1]}", "target.horizon must ascend, each once, not [6"),
        ("target={kind='next', horizon=[6, 6]}", "target.horizon must ascend, each once, not [6"),
        (
            "target={kind='next', horizon=[]}",
            "target.horizon must be 1 to 48 whole numbers, not []",
        ),
        (
            "target={kind='next', horizon=[1.5]}",
            "target.horizon[0] must be a whole number, not 1.5",
        ),
        ("target={kind='next', horizon=[-1]}", "target.horizon[0] must be at least 0, not -1"),
        ("target={kind='next', horizon='far'}", "target.horizon must be a whole number or a list"),
        ("target.horizon=[1, 2]", "target.horizon must be a whole number; lists are for values"),
        (f"{VALUES}, quantiles=[0.9, 0.5]}}", f"{LEVELS} ascend, each once, not [0.9, 0.5]"),
        (f"{VALUES}, quantiles=[0.5, 0.5]}}", f"{LEVELS} ascend, each once, not [0.5, 0.5]"),
        (f"{VALUES}, quantiles=[0.0, 0.5]}}", f"{LEVELS} each be above 0 and below 1, not [0.0, "),
        (f"{VALUES}, quantiles=[0.5, 1]}}", f"{LEVELS} each be above 0 and below 1, not [0.5, 1"),
        (f"{VALUES}, quantiles=[0.1, 0.9]}}", f"{LEVELS} have the median, 0.5, among them, not [0"),
        (f"{VALUES}, quantiles=[]}}", f"{LEVELS} name at least one, not []"),
        (f"{VALUES}, quantiles=0.5}}", f"{LEVELS} be a list, not 0.5"),
        (f"{VALUES}, quantiles=['low']}}", "target.quantiles[0] must be a number, not 'low'"),
        (f"{VALUES}, quantiles=[0.5, nan]}}", "target.quantiles[1] must be a finite number, not n"),
        ("target.quantiles=[0.5]", "target.quantiles are of values; classes have probabilities"),
        (f"{VALUES}, temperature=true}}", "target.temperature is for classes; values have quan"),
        ("target.temperature=1.5", "target.temperature must be true or false, not 1.5"),
        (f"{VALUES}, focal=2.0}}", "target.focal is for classes"),
        (f"{VALUES}, weights='balanced'}}", "target.weights are for classes"),
        ("target.weights={up=-5.0}", "target.weights.up must be above 0, not -5.0"),
        ("target.weights={up=0}", "target.weights.up must be above 0, not 0"),
        ("name='../../elsewhere'", "name must be a folder's name of letters, digits and _ - . or"),
        ("name='/tmp/here'", "name must be a folder's name of"),
        ("name='..'", "name must be a folder's name of"),
        ("name=''", "name must be a folder's name of"),
        ("target.focal=0", "target.focal must be above 0, not 0"),
        ("target.focal=11.0", "target.focal must be at most 10, not 11.0"),
        ("target.focal=true", "target.focal must be a number, not True"),
        ("target.weights=3", "target.weights must be a table or text, not 3"),
        ("split.by='group'", "split.group must name the column of the groups, where split.by is"),
        ("split.test=1.2", "split.test must be from 0 to below 1, not 1.2"),
        ("features={}", "features must name at least one, not {}"),
        ("features.load=3", "features.load must be a table, not 3"),
        ("features.load.unit=3", "features.load.unit must be text, not 3"),
        ("variation.rotate=[['a', 'b']]", "variation.rotate must be lists of 3 features"),
        ("name.first='x'", "name.first is no setting: name is no table"),
        ("export.precision='float8'", "export.precision must be one of float32, float16, int8"),
        ("network.dropout=-0.5", "network.dropout must be at least 0, not -0.5"),
        ("network.clip=inf", "network.clip must be a finite number, not inf"),
        ("loop.epochs=true", "loop.epochs must be a whole number, not True"),
        ("loop.rate=1e30", "loop.rate must be at most 1, not 1e+30"),
        ("loop.batch=0", "loop.batch must be at least 1, not 0"),
        ("loop.batch='some'", "loop.batch must be \"auto\" or a whole number, not 'some'"),
        ("loop.rate='fast'", "loop.rate must be a number, not 'fast'"),
        ("table.drop_short=1", "table.drop_short must be true or false, not 1"),
        ("table.gap=0", "table.gap must be above 0, not 0"),
        ("target.columns='state'", "target.columns must be a list, not 'state'"),
        (
            "target.weights='much'",
            'target.weights must be "equal", "balanced" or a table of labels',
        ),
        ("target.weights={up='much'}", "target.weights.up must be a number, not 'much'"),
        ("split.test='some'", "split.test must be a number or a list, not 'some'"),
        ("split.test={a=1}", "split.test must be a number or a list, not {'a': 1}"),
        ("split.test=['d0', 1.5]", "split.test[1] must be text or a whole number, not 1.5"),
        ("features.load.unti='V'", "features.load.unti is no setting; there are unit, embedding,"),
        ("features.float={unit=3}", "features.float.unit must be text, not 3"),
        ("network.mirror={by='load'}", "network.mirror.flip is missing"),
        (
            "network.mirror={by='load', flip=[], at=1}",
            "network.mirror.at is no setting; there are by",
        ),
        ("lop.epochs=3", "lop is no setting; there are name, source, table, features,"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(tmp_path: Path, override: str, text: str) -> None:
    with pytest.raises(TrainingError) as caught:
        recipe(tmp_path / "t.csv", override)
    assert str(caught.value).startswith(text)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text('name = "x"\n[table]\nsession = "s"\n')
    with pytest.raises(TrainingError, match=r"^table\.order is missing$"):
        read_recipe(tmp_path / "t.toml")


@pytest.mark.parametrize(
    ("content", "text"),
    [(b"name = ", "is no TOML: "), (b"\xff\xfe", "is no TOML: ")],
)
def test_what_is_no_toml_is_refused(tmp_path: Path, content: bytes, text: str) -> None:
    (tmp_path / "t.toml").write_bytes(content)
    with pytest.raises(TrainingError, match=text):
        read_recipe(tmp_path / "t.toml")


def test_a_recipe_that_is_not_there_is_refused_with_the_ready_ones() -> None:
    with pytest.raises(
        TrainingError, match=r"nowhere.*\(exercise, flights, pedestrians, weather\)"
    ):
        find_recipe("nowhere")


def test_text_needs_no_quotes_on_the_command_line(tmp_path: Path) -> None:
    assert recipe(tmp_path / "t.csv", "network.cell=gru").network.cell == "gru"


def test_a_file_is_named_from_the_recipe_s_folder(tmp_path: Path) -> None:
    whole = read_recipe(write_recipe(tmp_path / "t.csv"))
    assert whole.source.file == str(tmp_path / "t.csv")
