"""Wrap a recurrent single-step ONNX graph into a bundle, and prove that it steps alike. The model
alone is listed, with guesses.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import onnxruntime

from training.bundle import bundle_folder
from training.errors import TrainingError
from training.importer.importing import Imported, import_model
from training.importer.listing import listing, swappable
from training.importer.original import read_original
from training.importer.resolve import Request
from training.importer.texts import parse_span

log = logging.getLogger(__name__)
FATAL = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL, which tensors are what, and where to write."""
    parser.add_argument("model", type=Path, help="the ONNX file")
    for option, kind, text in (
        (
            "--state",
            "IN=OUT[:AXIS]",
            "a state's input and output, and their batch axis (the one that the graph names, or 0)",
        ),
        ("--output", "NAME[:AXIS]", "an output to give to callers, and its batch axis (0)"),
    ):
        parser.add_argument(option, action="append", default=[], metavar=kind, help=text)
    for option, kind, text in (
        ("--const", "NAME=VALUE", "an input that is always the same"),
        ("--initial", "IN=VALUE", "what a state is filled with at a session's start (0)"),
        ("--state-shape", "IN=SIZES", "a session's state as 2,128, where the graph leaves it open"),
    ):
        parser.add_argument(option, action="append", default=[], metavar=kind, help=text)
    parser.add_argument(
        "--input", default="", metavar="NAME[:AXIS]", help="the input that callers send"
    )
    parser.add_argument("--input-shape", default="", metavar="SIZES", help="as --state-shape")
    parser.add_argument(
        "--context", type=int, default=0, metavar="N", help="input values kept from step to step"
    )
    parser.add_argument(
        "--features", default="", help="names with commas, or a file of a name a line"
    )
    parser.add_argument(
        "--range", default="", metavar="LOW,HIGH", help="of random inputs to probe with"
    )
    parser.add_argument("--out", type=Path, help="the bundle, .../NAME/VERSION")
    parser.add_argument("--description", default="", help="a sentence for model.json")


def run(arguments: argparse.Namespace) -> None:
    """Read, probe, write; or list what the model takes and gives, where no more is said.

    Raises:
        TrainingError: what is wrong with the file, the options or the graph; nothing is written.
    """
    onnxruntime.set_default_logger_severity(FATAL)  # what it raises is told in a sentence
    said = {"--state": arguments.state, "--input": arguments.input, "--output": arguments.output,
            "--out": arguments.out}  # fmt: skip
    if not any(said.values()):
        print(listing(read_original(arguments.model)))
        return
    if lacking := [option for option, given in said.items() if not given]:
        raise TrainingError(f"{', '.join(lacking)} missing; tidegate-train import "
                            f"{arguments.model} alone lists what there is")  # fmt: skip
    request = Request(
        states=arguments.state,
        input=arguments.input,
        outputs=arguments.output,
        constants=arguments.const,
        initials=arguments.initial,
        input_shape=arguments.input_shape,
        state_shapes=arguments.state_shape,
        context=arguments.context,
    )
    folder = bundle_folder(arguments.out.absolute(), "")
    done = import_model(
        arguments.model,
        request,
        folder,
        features=_features(arguments.features),
        span=parse_span(arguments.range),
        description=arguments.description,
    )
    _tell(folder, done)
    for one, other in swappable(done.plan.states):
        log.warning(
            "states %r and %r are alike in shape and type, and by their names as likely the other "
            "way round: if answers look wrong, try --state %s=%s --state %s=%s",
            one.enters, other.enters, one.enters, other.leaves, other.enters, one.leaves,
        )  # fmt: skip


def _features(text: str) -> list[str]:
    if not text or not Path(text).is_file():
        return [name.strip() for name in text.split(",")] if text else []
    try:
        return [name.strip() for name in Path(text).read_text().splitlines() if name.strip()]
    except (OSError, ValueError) as error:
        raise TrainingError(f"--features {text} cannot be read") from error


def _tell(folder: Path, done: Imported) -> None:
    plan = done.plan
    for output in plan.outputs:
        if output.dtype != "float32":
            log.info("output %r is %s and is sent as float32", output.name, output.dtype)
    if plan.input.dtype != "float32":
        log.info("input %r is %s, cast from the float32 sent", plan.input.name, plan.input.dtype)
    if done.alone:
        log.info("sessions are stepped one at a time (max_batch 1): %s", done.alone)
    log.info(
        "wrote %s: %d values in, %d out, states %s; within %.1e of the original over 50 steps",
        folder, plan.sent, plan.width, ", ".join(plan.rows), done.difference,
    )  # fmt: skip
