"""The report: pictures and the manifest's figures, as one HTML page that loads nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from training.errors import TrainingError
from training.insight.calibration import draw_reliability, reliability
from training.insight.confusion import by_class, confusion, draw_confusion
from training.insight.curves import draw_curves
from training.insight.data import feature_lines, split_words
from training.insight.diagnose import diagnose
from training.insight.errors import draw_errors
from training.insight.judged import Judged, judge
from training.insight.picture import Picture
from training.insight.recipe_text import as_toml
from training.insight.subject import Subject
from training.network import Network

TEMPLATE = "report.html.j2"
NEEDED = ("parity", "export", "precisions")


def page(subject: Subject) -> str:
    """The whole page.

    Raises:
        TrainingError: the manifest lacks a part, there is nothing held out to judge by, or the
            graphs do not run here.
    """
    for key in NEEDED:
        if key not in subject.manifest:
            raise TrainingError(f"{subject.name}: model.json has no {key!r}; fit it anew")
    judged = judge(subject)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("training.insight", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "svg": _svg}
    return environment.get_template(TEMPLATE).render(
        subject=subject,
        manifest=subject.manifest,
        story=subject.story,
        part=judged.part,
        network=network_words(subject.network),
        pictures=_pictures(subject, judged),
        classes=_classes(judged),
        features=feature_lines(subject, judged),
        split=split_words(subject.story),
        recipe=as_toml(subject.story["recipe"]),
    )


def number(value: float | str) -> str:
    """A figure as the page shows it."""
    if isinstance(value, str):
        return value
    if math.isnan(value):
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def network_words(network: Network) -> str:
    """What it is made of, in a sentence."""
    first = network.layers[0]
    words = f"{len(network.layers)} {first.cell} layer(s) of {first.hidden} units"
    if first.project is not None:
        words += f", projected to {first.width}"
    if any(layer.residual for layer in network.layers):
        words += ", each from the second on adding its input"
    if network.embeddings:
        words += f"; {len(network.embeddings)} embedded categories"
    return f"{words}; {_parameters(network):,} parameters"


def _parameters(network: Network) -> int:
    arrays = [network.head_w, network.head_b, *(each.table for each in network.embeddings)]
    for layer in network.layers:
        held = (layer.w, layer.r, layer.b, layer.rb, layer.project)
        arrays += [each for each in held if each is not None]
    return sum(each.size for each in arrays)


def _svg(picture: Picture) -> Markup:
    """Drawn by us: matplotlib escapes the texts in it. Names are told apart between pictures."""
    inner = picture.svg.replace('id="', f'id="{picture.name}-')
    inner = inner.replace('href="#', f'href="#{picture.name}-')
    return Markup(inner.replace("url(#", f"url(#{picture.name}-"))


def _pictures(subject: Subject, judged: Judged) -> Mapping[str, list[Picture]]:
    return {
        "curves": [draw_curves(subject.story["curve"])],
        "errors": _confusions(judged) if judged.target.classes else draw_errors(judged),
        "diagnosis": diagnose(subject, judged),
    }


def _confusions(judged: Judged) -> list[Picture]:
    labels = judged.target.labels
    (y, steps), (end, ends) = judged.steps(), judged.ends()
    right = steps.argmax(axis=1) == y
    return [
        draw_confusion("steps", "Per step", labels, _counts(y, steps)),
        draw_confusion("ends", "At session end", labels, _counts(end, ends)),
        draw_reliability(reliability(steps.max(axis=1), right)),
    ]


def _classes(judged: Judged) -> list[Any]:
    if not judged.target.classes:
        return []
    return list(by_class(judged.target.labels, _counts(*judged.steps())))


def _counts(y: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    return confusion(y, probabilities.argmax(axis=1), probabilities.shape[1])
