"""What a report shows of a run: its settings, its curves, and the results and images of its validation examples."""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from danet_jax.evaluation.result import Result
from danet_jax.runs.directory import flat_config, read_classes, read_config
from danet_jax.runs.outputs import Outputs
from danet_jax.visual.packing import describe_network
from danet_jax.visual.report.examples import ShownExample

MOST_POINTS = 1500
"""The maximum number of points of a curve."""
MOST_CONFUSIONS = 8
"""The maximum number of confusions that are described in words."""


@dataclasses.dataclass(frozen=True)
class Contents:
    """The content of a run's directory that a report shows.

    Attributes:
      name: the name of the run's directory.
      folder: the run's directory.
      config: the run's resolved recipe, with flat keys such as "training.steps".
      versions: the versions of libraries.
      series: the steps and values of each logged number.
      result: the result over validation examples; None where it could not be computed.
      examples: the best, median and worst of these examples.
      sentences: what a reader must know about the run.
    """

    name: str
    folder: Path
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    series: Mapping[str, tuple[list[int], list[float]]]
    result: Result | None
    examples: Sequence[ShownExample]
    sentences: Sequence[str]


def read_contents(
    folder: Path, result: Result | None, examples: Sequence[ShownExample] = (), sentences: Sequence[str] = ()
) -> Contents:
    """Reads a run's directory and adds the given results and sentences.

    Raises:
      InputError: there is no run in `folder`, or its config.json or classes.json cannot be read.
    """
    config, sentences = flat_config(read_config(folder)), list(sentences)
    if "init.source" in config:  # the name of this option up to version 0.2
        config["init.checkpoint"] = config.pop("init.source")
    read_classes(folder)
    try:
        versions = dict(json.loads((folder / "versions.json").read_text()))
    except (OSError, ValueError, TypeError):
        versions = {}
        sentences.append("versions.json is missing or damaged, so the versions of libraries are unknown.")
    series, damaged = read_series(folder / "metrics.jsonl")
    if damaged:
        sentences.append(f"{damaged} lines of metrics.jsonl are damaged and left out of the curves.")
    return Contents(folder.resolve().name, folder, config, versions, series, result, examples, sentences)


def read_series(file: Path) -> tuple[dict[str, tuple[list[int], list[float]]], int]:
    """Returns at most `MOST_POINTS` steps and values of each number in metrics.jsonl, and the number of bad lines."""
    series: dict[str, tuple[list[int], list[float]]] = {}
    damaged = 0
    text = file.read_bytes().decode(errors="replace") if file.is_file() else ""
    for line in text.splitlines():
        try:
            values = json.loads(line)
            step = int(values["step"])
        except (ValueError, TypeError, KeyError):
            damaged += 1
            continue
        for name, value in values.items():
            if name != "step" and isinstance(value, int | float):
                steps, found = series.setdefault(name, ([], []))
                steps.append(step)
                found.append(float(value))
    for steps, found in series.values():
        every = -(-len(steps) // MOST_POINTS)
        first = (len(steps) - 1) % every  # the last point is kept
        steps[:], found[:] = steps[first::every], found[first::every]
    return series, damaged


def describe_confusions(result: Result) -> list[str]:
    """Returns descriptions of the worst confusions, relative to the pixels of each class."""
    counts = result.confusion.astype(np.float64)
    truth = counts.sum(1, keepdims=True)
    shares = np.divide(counts, truth, out=np.zeros_like(counts), where=truth > 0)
    np.fill_diagonal(shares, 0)
    names = result.classes.names
    worst = (
        divmod(int(i), len(counts)) for i in np.argsort(-shares, axis=None, kind="stable")[:MOST_CONFUSIONS]
    )
    return [
        f"{100 * shares[true, predicted]:.0f} % of {names[true]} is predicted as {names[predicted]}."
        for true, predicted in worst
        if shares[true, predicted] >= 0.01
    ]


def summarize_run(run: Contents) -> dict[str, str]:
    """Returns a summary of a run as names and values."""
    config, series, result = run.config, run.series, run.result
    found: dict[str, str] = {}
    if result is not None:
        found["mIoU"] = f"{100 * result.miou:.2f} % on {result.images} images"
        found["pixel accuracy"] = f"{100 * result.pixel_accuracy:.2f} %"
        found["protocol"] = result.protocol.name
    elif "validation/miou" in series:
        found["mIoU at the last evaluation"] = f"{100 * series['validation/miou'][1][-1]:.2f} %"
    model = ("position_attention", "channel_attention", "backbone", "output_stride")
    found["network"] = describe_network(*(config.get(f"model.{name}") for name in model))
    found["data"] = (
        f"{config.get('dataset.name')}, trained on {config.get('dataset.train_split')}, "
        f"validated on {config.get('dataset.validation_split')}"
    )
    reached = series["train/loss"][0][-1] if "train/loss" in series else 0
    found["steps"] = f"{reached:,}, each of {config.get('training.batch_size')} images"
    if start := config.get("init.checkpoint"):
        found["started from"] = str(start)
    for name in ("alpha", "beta"):
        if f"train/{name}" in series:
            found[name] = f"{series[f'train/{name}'][1][-1]:.4g}"
    if "train/images_per_second" in series:
        found["images per second"] = f"{statistics.median(series['train/images_per_second'][1]):.3g}"
    if "train/waiting_for_data" in series:
        waiting = statistics.mean(series["train/waiting_for_data"][1])
        found["waiting for data"] = f"{100 * waiting:.2g} % of the time"
    return found


def explorer_link(run: Contents, name: str, page: Path) -> str | None:
    """Returns the link from the report at `page` to the explorer's page of a validation example, if it exists."""
    folder = run.folder / "explore"
    stem = Outputs(folder).stem_of(f"validation example {name}") or name.replace("/", "_")
    file = folder / f"{stem}.html"
    if not file.is_file():
        return None
    return urllib.parse.quote(os.path.relpath(file.resolve(), page.resolve().parent).replace(os.sep, "/"))
