"""The report's page, of one run or of several side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import danet_jax
from danet_jax.errors import InputError
from danet_jax.visual.packing import write_page
from danet_jax.visual.report.contents import Contents, confusions, explorer_link, facts

LIMIT_MEGABYTES = 6.0
SCRIPTS = ("colours.js", "charts.js", "report.js")
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's, without those that do not show on white."""

# Title, what is drawn and by which name, unit. With several runs the first of each is drawn, a line for each run.
CHARTS: tuple[tuple[str, dict[str, str], str], ...] = (
    (
        "Loss",
        {
            "train/loss": "sum",
            "train/loss_fusion": "fusion",
            "train/loss_position": "position",
            "train/loss_channel": "channel",
            "train/loss_auxiliary": "auxiliary",
        },
        "",
    ),
    ("Validation", {"validation/miou": "mIoU", "validation/pixel_accuracy": "pixel accuracy"}, "%"),
    ("Learning rate", {"train/learning_rate": "backbone", "train/learning_rate_head": "heads"}, ""),
    ("Alpha, the scale of position attention", {"train/alpha": "alpha"}, ""),
    ("Beta, the scale of channel attention", {"train/beta": "beta"}, ""),
    ("Images per second", {"train/images_per_second": "images per second"}, ""),
    ("Time spent waiting for data", {"train/waiting_for_data": "waiting"}, "%"),
)


def write_report(path: Path, runs: Sequence[Contents], defaults: Mapping[str, Any]) -> int:
    """Writes the page and returns its size in bytes.

    Args:
      path: of the page.
      runs: one, or several that are compared.
      defaults: of all settings, flat; what differs from them is marked.

    Raises:
      InputError: the page is larger than 6 MB.
    """
    several = len(runs) > 1
    names = [run.name for run in runs]
    if len(set(names)) < len(names):  # told apart by the folders that they are in
        names = [str(run.folder) for run in runs]
    size = write_page(
        path,
        "report.html",
        SCRIPTS,
        {
            "charts": [chart for entry in CHARTS if (chart := _chart(entry, runs, names))],
            "confusions": [_confusion(run, name) for run, name in zip(runs, names, strict=True)],
        },
        title=" and ".join(names) if len(names) < 4 else f"{len(names)} runs",
        names=names,
        colours=COLOURS,
        several=several,
        told=[facts(run) for run in runs],
        sentences=[
            f"{name}: {sentence}" if several else sentence
            for run, name in zip(runs, names, strict=True)
            for sentence in run.sentences
        ],
        settings=_settings(runs, defaults),
        versions=_pairs([run.versions for run in runs]),
        classes=_classes(runs),
        confusions=[confusions(run.result) if run.result else [] for run in runs],
        pictures=[
            [
                {
                    "name": picture.name,
                    "group": picture.group,
                    "iou": f"{100 * picture.iou:.1f} %",
                    "links": picture.links,
                    "explorer": explorer_link(run, picture.name, path),
                }
                for picture in (run.examined.pictures if run.examined else ())
            ]
            for run in runs
        ],
        version=danet_jax.__version__,
    )
    if size > LIMIT_MEGABYTES * 1e6:
        path.unlink()
        raise InputError(
            f"{path}: the report takes {size / 1e6:.1f} MB, at most {LIMIT_MEGABYTES:g} are allowed; give fewer runs",
            what=str(path),
            value=size,
            allowed=LIMIT_MEGABYTES,
        )
    return size


def _chart(
    entry: tuple[str, dict[str, str], str], runs: Sequence[Contents], names: Sequence[str]
) -> dict[str, Any] | None:
    title, wanted, unit = entry
    if len(runs) > 1:
        key, title = next(iter(wanted)), next(iter(wanted.values())) if title == "Validation" else title
        drawn = [(name, run.series.get(key)) for run, name in zip(runs, names, strict=True)]
    else:
        drawn = [(name, runs[0].series.get(key)) for key, name in wanted.items()]
    lines = [
        {
            "name": name,
            "colour": COLOURS[index % len(COLOURS)],
            "dashed": index >= len(COLOURS),
            "x": points[0],
            "y": [100 * y if unit == "%" else y for y in points[1]],
        }
        for index, (name, points) in enumerate(drawn)
        if points
    ]
    return {"title": title, "unit": unit, "lines": lines} if lines else None


def _confusion(run: Contents, name: str) -> dict[str, Any] | None:
    if run.result is None:
        return None
    return {"run": name, "counts": run.result.confusion.tolist(), "classes": run.result.classes.names}


def _settings(runs: Sequence[Contents], defaults: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Settings that were changed, or that differ between runs; and all others."""
    found: dict[str, list[dict[str, Any]]] = {"marked": [], "others": []}
    for key, values in _pairs([run.config for run in runs]):
        known = _shown(defaults[key]) if key in defaults else None
        differs = len(set(values)) > 1
        marked = differs if len(runs) > 1 else values[0] != known
        entry = {"key": key, "values": values, "default": known}
        found["marked" if marked else "others"].append(entry)
    return found


def _pairs(mappings: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    keys = dict.fromkeys(key for mapping in mappings for key in mapping)
    return [(key, [_shown(mapping[key]) if key in mapping else "-" for mapping in mappings]) for key in keys]


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "(" + ", ".join(_shown(part) for part in value) + ")"
    return str(value)


def _classes(runs: Sequence[Contents]) -> list[dict[str, Any]]:
    """IoU by class, of each run that has one; classes go by name."""
    results = [run.result for run in runs]
    rows: dict[str, dict[str, Any]] = {}
    for place, result in enumerate(results):
        if result is None:
            continue
        pixels = result.confusion.sum(1) / max(1, result.confusion.sum())
        for index, name in enumerate(result.classes.names):
            empty = {"name": name, "colour": result.classes.colours[index], "share": float(pixels[index])}
            row = rows.setdefault(name, {**empty, "iou": [None] * len(runs)})
            iou = float(result.iou[index])
            row["iou"][place] = None if math.isnan(iou) else iou
    return list(rows.values())
