"""Writes the report: the page of one run, or of several runs for comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from danet_jax.errors import InputError
from danet_jax.runs.files import write_text
from danet_jax.visual.packing import render_page
from danet_jax.visual.report.contents import Contents, describe_confusions, explorer_link, summarize_run

LIMIT_MEGABYTES = 6.0
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's colours, without those that are invisible on white."""

# The title, the series with their names, and the unit. For several runs, only the first series is drawn, with a line
# for each run.
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
      path: the file to write.
      runs: one run, or several to compare.
      defaults: the default of each setting, with flat keys. Settings that differ from it are shown first.

    Raises:
      InputError: the page is larger than 6 MB.
    """
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run.folder) for run in runs]
    page = render_page(
        "report.html",
        title=f"{' and '.join(names) if len(names) < 4 else f'{len(names)} runs'}: report",
        scripts=("colours.js", "charts.js", "report.js"),
        facts={
            "charts": [chart for entry in CHARTS if (chart := _chart(entry, runs, names))],
            "confusions": [
                {"counts": run.result.confusion.tolist(), "classes": run.result.classes.names}
                if run.result
                else None
                for run in runs
            ],
        },
        runs=[
            {
                "name": name,
                "colour": COLOURS[index % len(COLOURS)],
                "facts": summarize_run(run),
                "sentences": run.sentences,
                "confusions": describe_confusions(run.result) if run.result else [],
                "classes": run.result.classes.names if run.result else [],
                "examples": [(x, explorer_link(run, x.name, path)) for x in run.examples],
            }
            for index, (run, name) in enumerate(zip(runs, names, strict=True))
        ],
        settings=_settings(runs, defaults),
        versions=_side_by_side([run.versions for run in runs]),
        classes=_classes(runs),
    )
    size = len(page.encode())
    if size > LIMIT_MEGABYTES * 1e6:
        raise InputError(
            f"{path}: the report takes {size / 1e6:.1f} MB, at most {LIMIT_MEGABYTES:g} are allowed; give fewer runs",
            what=str(path),
            value=size,
            allowed=LIMIT_MEGABYTES,
        )
    write_text(path, page)
    return size


def _chart(
    entry: tuple[str, dict[str, str], str], runs: Sequence[Contents], names: Sequence[str]
) -> dict[str, Any] | None:
    title, series, unit = entry
    if len(runs) > 1:
        key, title = next(iter(series)), next(iter(series.values())) if title == "Validation" else title
        drawn = [(name, run.series.get(key)) for run, name in zip(runs, names, strict=True)]
    else:
        drawn = [(name, runs[0].series.get(key)) for key, name in series.items()]
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


def _settings(runs: Sequence[Contents], defaults: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Returns the settings that differ from their default or, for several runs, between runs; and all others."""
    found: dict[str, list[dict[str, Any]]] = {"marked": [], "others": []}
    for key, values in _side_by_side([run.config for run in runs]).items():
        default = _shown(defaults[key]) if key in defaults else None
        marked = len(set(values)) > 1 if len(runs) > 1 else values[0] != default
        found["marked" if marked else "others"].append(
            {"key": key, "values": values, "default": "-" if default is None else default}
        )
    return found


def _side_by_side(mappings: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    keys = dict.fromkeys(key for mapping in mappings for key in mapping)
    return {key: [_shown(mapping[key]) if key in mapping else "-" for mapping in mappings] for key in keys}


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "(" + ", ".join(_shown(part) for part in value) + ")"
    return str(value)


def _classes(runs: Sequence[Contents]) -> list[dict[str, Any]]:
    """Returns the classes by name, with the IoU of each run; None where a run has no IoU for a class."""
    rows: dict[str, dict[str, Any]] = {}
    for index, run in enumerate(runs):
        if run.result is None:
            continue
        classes, confusion = run.result.classes, run.result.confusion
        shares = 100 * confusion.sum(1) / max(1, confusion.sum())
        for name, colour, share, iou in zip(
            classes.names, classes.colours, shares, run.result.iou, strict=True
        ):
            empty = {"name": name, "colour": colour, "share": float(share), "iou": [None] * len(runs)}
            rows.setdefault(name, empty)["iou"][index] = None if math.isnan(iou) else 100 * float(iou)
    return list(rows.values())
