"""What a run's directory tells: its settings, its curves, its numbers."""

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
from danet_jax.visual.report.examined import Examined

MOST_POINTS = 1500
"""Of a curve."""
MOST_CONFUSIONS = 8
"""In words."""


@dataclasses.dataclass(frozen=True)
class Contents:
    """One run, read.

    Attributes:
      name: of its directory.
      folder: its directory.
      config: its resolved recipe, flat: "training.steps" and so on.
      versions: of libraries.
      series: steps and values of each logged number.
      examined: what its network makes of validation pictures; None where that could not be found out.
      sentences: what has to be said of it.
    """

    name: str
    folder: Path
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    series: Mapping[str, tuple[list[int], list[float]]]
    examined: Examined | None
    sentences: tuple[str, ...]

    @property
    def result(self) -> Result | None:
        """Over the validation pictures that were looked at."""
        return self.examined.result if self.examined else None


def read_contents(folder: Path, examined: Examined | None, sentences: Sequence[str] = ()) -> Contents:
    """Reads what is there.

    Raises:
      InputError: there is no run in `folder`, or its config.json or classes.json cannot be read.
    """
    config, said = flat_config(read_config(folder)), list(sentences)
    if "init.source" in config:  # its name up to version 0.2
        config["init.checkpoint"] = config.pop("init.source")
    read_classes(folder)
    try:
        versions = json.loads((folder / "versions.json").read_text())
    except (OSError, ValueError):
        versions = {}
        said.append("versions.json is missing or damaged, so the versions of libraries are not known.")
    series, damaged = read_series(folder / "metrics.jsonl")
    if damaged:
        said.append(f"{damaged} lines of metrics.jsonl are damaged and left out of the curves.")
    return Contents(folder.resolve().name, folder, config, versions, series, examined, tuple(said))


def read_series(file: Path) -> tuple[dict[str, tuple[list[int], list[float]]], int]:
    """Steps and values of each number in metrics.jsonl, and how many of its lines are damaged."""
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
    return {name: thinned(*points) for name, points in series.items()}, damaged


def thinned(steps: list[int], values: list[float]) -> tuple[list[int], list[float]]:
    """At most `MOST_POINTS`, evenly, the last among them."""
    every = -(-len(steps) // MOST_POINTS)
    return steps[::-1][::every][::-1], values[::-1][::every][::-1]


def confusions(result: Result) -> list[str]:
    """The worst confusions in words, those of rare and common classes alike."""
    counts = result.confusion.astype(np.float64)
    truth = counts.sum(1, keepdims=True)
    shares = np.divide(counts, truth, out=np.zeros_like(counts), where=truth > 0)
    np.fill_diagonal(shares, 0)
    found = []
    for place in np.argsort(-shares, axis=None, kind="stable")[:MOST_CONFUSIONS]:
        true, predicted = divmod(int(place), len(counts))
        if shares[true, predicted] < 0.01:
            break
        names = result.classes.names
        found.append(
            f"{100 * shares[true, predicted]:.0f} % of {names[true]} is taken for {names[predicted]}."
        )
    return found


def facts(run: Contents) -> list[tuple[str, str]]:
    """A run in a few pairs of words."""
    config, series = run.config, run.series

    def last(name: str) -> float | None:
        return series[name][1][-1] if name in series else None

    pairs: list[tuple[str, str]] = []
    if run.result is not None:
        pairs.append(("mIoU", f"{100 * run.result.miou:.2f} % of {run.result.images} pictures"))
        pairs.append(("pixel accuracy", f"{100 * run.result.pixel_accuracy:.2f} %"))
        pairs.append(("protocol", run.result.protocol.name))
    elif (miou := last("validation/miou")) is not None:
        pairs.append(("mIoU at the last evaluation", f"{100 * miou:.2f} %"))
    pairs.append(("network", network_words(config)))
    data = f"{config.get('dataset.name')}, trained on {config.get('dataset.train_split')}"
    pairs.append(("data", f"{data}, looked at on {config.get('dataset.validation_split')}"))
    reached = series["train/loss"][0][-1] if "train/loss" in series else 0
    pairs.append(("steps", f"{reached:,} of {config.get('training.batch_size')} images"))
    if start := config.get("init.checkpoint"):
        pairs.append(("started from", str(start)))
    for name in ("alpha", "beta"):
        if (value := last(f"train/{name}")) is not None:
            pairs.append((name, f"{value:.4g}"))
    if "train/images_per_second" in series:
        speed = statistics.median(series["train/images_per_second"][1])
        pairs.append(("images per second", f"{speed:.3g}"))
    if "train/waiting_for_data" in series:
        waiting = statistics.mean(series["train/waiting_for_data"][1])
        pairs.append(("waiting for data", f"{100 * waiting:.2g} % of the time"))
    return pairs


def network_words(config: Mapping[str, Any]) -> str:
    """The network of a flat config."""
    kinds = {(True, True): "DANet", (True, False): "position attention", (False, True): "channel attention"}
    both = (bool(config.get("model.position_attention")), bool(config.get("model.channel_attention")))
    backbone = str(config.get("model.backbone")).replace("resnet", "ResNet-")
    return (
        f"{kinds.get(both, 'dilated FCN')} on {backbone}, output stride {config.get('model.output_stride')}"
    )


def explorer_link(run: Contents, name: str, page: Path) -> str | None:
    """From the report at `page` to the explorer's page of a validation picture, where there is one."""
    folder = run.folder / "explore"
    stem = Outputs(folder).stem_of(f"validation example {name}") or name.replace("/", "_")
    file = folder / f"{stem}.html"
    if not file.is_file():
        return None
    return urllib.parse.quote(os.path.relpath(file.resolve(), page.resolve().parent).replace(os.sep, "/"))
