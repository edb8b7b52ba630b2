"""The report: pictures and the manifest's figures, as one HTML page that loads nothing.

Beside the pictures of errors and of `diagnose` it holds the learning curves, the data as the
manifest tells it, and the recipe, so that whoever reads the page can repeat it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from server.bundle.feature import read
from server.serving.drift import stability_index
from training.errors import TrainingError
from training.insight.advice import Curve, Linear, kept
from training.insight.class_errors import (
    by_class,
    confusion,
    draw_confusion,
    draw_reliability,
    reliability,
)
from training.insight.diagnose import Diagnosis, diagnose
from training.insight.evaluation import Evaluation, Subject, evaluate
from training.insight.fans import draw_fans
from training.insight.moved import Movement
from training.insight.picture import (
    BLUE,
    GREY,
    ORANGE,
    Picture,
    axes,
    counted,
    name,
    picture,
    with_unit,
)
from training.insight.value_errors import draw_errors
from training.network import ARRAYS, Network
from training.scoring.intervals import read_interval
from training.scoring.words import name_of, told_interval
from training.table.session import Target

TEMPLATE = "report.html.j2"
NEEDED = ("parity", "export", "precisions")
CELLS = 24
BARE = re.compile(r"[A-Za-z0-9_-]+")

LOSSES = {"train_loss": ("training", BLUE), "validation_loss": ("validation", ORANGE)}
BEGAN = "Epoch 0 is the linear model that training began with. "
FIGURES = {
    "validation_accuracy": "accuracy per step",
    "validation_rmse": "RMSE of the first value",
}


def page(subject: Subject, moved: Movement | None = None) -> str:
    """The whole page; with `moved`, how features have moved where it is served.

    Raises:
        TrainingError: the manifest lacks a part, there is nothing held out to measure by, or the
            graphs do not run here.
    """
    for key in NEEDED:
        if key not in subject.manifest:
            raise TrainingError(f"{subject.name}: model.json has no {key!r}; fit it anew")
    evaluation = evaluate(subject)
    found = diagnose(subject, evaluation)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("training.insight", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "svg": _svg, "interval": _interval, "figure": name_of}
    return environment.get_template(TEMPLATE).render(
        subject=subject,
        moved=moved,
        manifest=subject.manifest,
        provenance=subject.provenance,
        part=evaluation.part,
        network=network_words(subject.network),
        pictures=_pictures(subject, evaluation, found),
        advice=found.advice,
        aim=aim_words(evaluation.target),
        classes=_classes(evaluation),
        features=feature_lines(subject, evaluation),
        split=split_words(subject.provenance),
        recipe=as_toml(subject.provenance["recipe"]),
    )


def number(value: float | str) -> str:
    """A figure as the page shows it."""
    if isinstance(value, str):
        return value
    if math.isnan(value):
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def aim_words(target: Target) -> str:
    """What is predicted, and when it is to be."""
    names = [with_unit(name, unit) for name, unit in zip(target.names, target.units, strict=True)]
    steps = sorted(set(target.horizons))
    when = f"{counted(steps[-1], 'step')} ahead" if any(steps) else "of the present step"
    if len(steps) > 1:
        when = f"{', '.join(map(str, steps[:-1]))} and {steps[-1]} steps ahead"
    levels = ", ".join(f"{each:g}" for each in target.quantiles)
    how = f", as the quantiles {levels} of each" if levels else ""
    return f"Predicts {', '.join(names)} {when}{how}, after every step."


def _interval(plain: Mapping[str, float | None]) -> str:
    """A figure and its interval, as the manifest has them."""
    return told_interval(read_interval(plain))


def network_words(network: Network) -> str:
    """What it is made of, in a sentence."""
    first = network.layers[0]
    layers = counted(len(network.layers), f"{first.cell.upper()} layer")
    words = f"{layers} of {counted(first.hidden, 'unit')}"
    if first.project is not None:
        words += f", projected to {first.width}"
    if any(layer.gain is not None for layer in network.layers):
        words += ", each normalised"
    if any(layer.residual for layer in network.layers):
        words += ", each from the second on adding its input"
    if network.linear is not None:
        words += f", beside what is linear in {counted(network.linear.lags, 'lag')}"
    if network.embeddings:
        words += f"; categories embedded: {len(network.embeddings)}"
    return f"{words}; {_parameters(network):,} parameters"


def _parameters(network: Network) -> int:
    arrays = [network.head_w, network.head_b, *(each.table for each in network.embeddings)]
    arrays += [] if network.linear is None else [network.linear.w]
    for layer in network.layers:
        held = (getattr(layer, name) for name in ARRAYS)
        arrays += [each for each in held if each is not None]
    return sum(each.size for each in arrays)


def _svg(picture: Picture) -> Markup:
    """Drawn by us: matplotlib escapes the texts in it. Names are told apart between pictures."""
    inner = picture.svg.replace('id="', f'id="{picture.name}-')
    inner = inner.replace('href="#', f'href="#{picture.name}-')
    return Markup(inner.replace("url(#", f"url(#{picture.name}-"))


def _pictures(
    subject: Subject, evaluation: Evaluation, found: Diagnosis
) -> Mapping[str, list[Picture]]:
    return {
        "curves": [draw_curves(subject.provenance["curve"], subject.provenance.get("linear"))],
        "errors": _confusions(evaluation)
        if evaluation.target.classes
        else [*draw_fans(evaluation), *draw_errors(evaluation)],
        "diagnosis": found.pictures,
    }


def _confusions(evaluation: Evaluation) -> list[Picture]:
    labels = evaluation.target.labels
    (y, steps), (end, ends) = evaluation.steps(), evaluation.ends()
    right = steps.argmax(axis=1) == y
    return [
        draw_confusion("steps", "Per step", labels, _counts(y, steps)),
        draw_confusion("ends", "At session end", labels, _counts(end, ends)),
        draw_reliability(reliability(steps.max(axis=1), right)),
    ]


def _classes(evaluation: Evaluation) -> list[Any]:
    if not evaluation.target.classes:
        return []
    return list(by_class(evaluation.target.labels, _counts(*evaluation.steps())))


def _counts(y: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    return confusion(y, probabilities.argmax(axis=1), probabilities.shape[1])


@dataclass(frozen=True)
class FeatureLine:
    """One feature: `entry` is the manifest's, `bars` heights from 0 to 1, `drift` the population
    stability index of the held-out part against the training part, NaN where they are the same."""

    entry: Mapping[str, Any]
    bars: tuple[float, ...]
    drift: float

    @property
    def missing(self) -> float:
        """The share of the training part's values that were missing."""
        share: float = self.entry["distribution"]["missing"]
        return share


def feature_lines(subject: Subject, evaluation: Evaluation) -> list[FeatureLine]:
    """All features in order."""
    every = np.concatenate([session.x for session in evaluation.sessions])
    train = np.concatenate([session.x for session in subject.dataset.train])
    lines = []
    for k, entry in enumerate(subject.manifest["features"]):
        trained = read(entry).distribution
        assert trained is not None  # fit writes one for each
        same = evaluation.part == "training"
        drift = math.nan if same else stability_index(trained, every[:, k])
        lines.append(FeatureLine(entry, _bars(entry.get("labels", ()), train[:, k]), drift))
    return lines


def _bars(labels: Sequence[str], values: NDArray[np.floating]) -> tuple[float, ...]:
    """Counts in cells from the least to the greatest, of categories one each, by the highest."""
    known = values[~np.isnan(values)]
    cells, ends = (len(labels), (-0.5, len(labels) - 0.5)) if labels else (CELLS, None)
    heights = np.histogram(known, bins=cells, range=ends)[0]
    return tuple((heights / max(heights.max(), 1)).tolist())


def split_words(provenance: Mapping[str, Any]) -> str:
    """Which kind of split it is, and why nothing of the held-out parts is known in training."""
    by, group = provenance["split"]["by"], provenance["recipe"]["split"].get("group", "")
    ways = {
        "session": "By session: all steps of a session are in the same part, so no held-out "
        "session was seen in training. Sessions of one origin can be in different parts.",
        "group": f"By group ({group}): all sessions of a group are in the same part, so figures "
        "on the held-out part are for groups never seen in training.",
        "time": "By time: every validation step is later than the training part, and every test "
        "step later than both, so nothing of the future was seen in training. A session that "
        "crosses a boundary is cut there, and targets are read within the part.",
    }
    return (
        f"{ways[by]} Means, deviations, categories and classes come from the training part alone."
    )


def draw_curves(curve: Curve, linear: Linear = None) -> Picture:
    """Both losses, and beside them the validation part's figure, where there is such a part; from
    what a linear model has on it, where training began with one."""
    shown = [key for key in FIGURES if any(key in line for line in curve)]
    figure, panels = axes(2.9, 1 + len(shown))
    for key, (label, colour) in LOSSES.items():
        _line(panels[0], curve, key, label, colour, linear)
    name(panels[0], "epoch", "loss per step", "Loss")
    for panel, key in zip(panels[1:], shown, strict=True):
        _line(panel, curve, key, "validation", ORANGE, linear)
        name(panel, "epoch", FIGURES[key], "Validation part")
    best = kept(curve, linear)
    for panel in panels:
        panel.axvline(best, color=GREY, linestyle="--", linewidth=1, label="epoch kept")
        panel.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        panel.legend(fontsize=8, frameon=False)
    return picture("curves", "Learning curves", _caption(curve, linear), figure)


def _line(panel: Axes, curve: Curve, key: str, label: str, colour: str, linear: Linear) -> None:
    lines = [linear or {}, *curve]
    points = [(k, line[key]) for k, line in enumerate(lines) if key in line]
    marker = "." if len(curve) <= 40 else ""
    if points:
        panel.plot(*zip(*points, strict=True), color=colour, marker=marker, lw=1.4, label=label)


def _caption(curve: Curve, linear: Linear) -> str:
    validated = any("validation_loss" in line for line in curve)
    why = "the lowest validation loss" if validated else "the last: there is no validation part"
    return (
        f"{counted(len(curve), 'epoch')}; the dashed line is the one whose weights were kept, "
        f"{kept(curve, linear)} ({why}). "
        f"{BEGAN if linear else ''}The training loss is a mean over the epoch while the weights "
        "still moved, with dropout, variation and label smoothing where the recipe has them; the "
        "validation loss has none of these."
    )


def as_toml(recipe: Mapping[str, Any]) -> str:
    """A CONFIG.toml of a recipe as the manifest has it: mappings, lists, texts and numbers."""
    return "\n".join(_lines(recipe, "")).lstrip("\n") + "\n"


def _lines(table: Mapping[str, Any], path: str) -> Iterator[str]:
    plain = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    if path and (plain or not table):
        yield f"\n[{path}]"
    for key, value in plain.items():
        yield f"{_key(key)} = {_text(value)}"
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _lines(value, f"{path}.{_key(key)}" if path else _key(key))


def _key(key: str) -> str:
    return key if BARE.fullmatch(key) else _text(key)


def _text(value: Any) -> str:
    """JSON's texts, numbers, truth values and lists are TOML's, all but one control character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
