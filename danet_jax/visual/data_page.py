"""The page of `--mode=check`: problems and warnings about a data set, tables, and examples with their labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from danet_jax.classes import IGNORE_LABEL, Classes
from danet_jax.inference.drawing import label_shares, overlay
from danet_jax.runs.files import write_text
from danet_jax.visual.packing import encode_png, render_page

_LONGEST = 960
"""The longer side of an example on the page, in pixels."""


class Table(NamedTuple):
    """A table: its title, the names of its columns, and its rows; a cell `(r, g, b)` is shown as that colour."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


class Example(NamedTuple):
    """An example: its name, its image, uint8 `[H, W, 3]`, and its label, uint8 `[H, W]`, or None."""

    name: str
    image: np.ndarray
    label: np.ndarray | None


def write_data_page(
    path: Path,
    title: str,
    *,
    errors: Sequence[str],
    warnings: Sequence[str],
    tables: Iterable[Table],
    examples: Iterable[Example],
    classes: Classes,
) -> None:
    """Writes the page as one self-contained file; the labels of examples are drawn over them, with a legend."""
    figures = []
    for name, image, label in examples:
        drawn = Image.fromarray(image) if label is None else overlay(image, label, classes, legend=False)
        drawn.thumbnail((_LONGEST, _LONGEST))
        figures.append(
            (name, encode_png(np.asarray(drawn)), [] if label is None else _legend(label, classes))
        )
    page = render_page(
        "data.html", title=title, errors=errors, warnings=warnings, tables=tables, figures=figures
    )
    write_text(path, page)


def _legend(label: np.ndarray, classes: Classes) -> list[tuple[str, tuple[int, int, int] | None, str]]:
    """Returns the name, colour (None if ignored) and share of each class in a label, the most frequent first."""
    return [
        (
            "ignored" if index == IGNORE_LABEL else classes.names[index],
            None if index == IGNORE_LABEL else classes.colours[index],
            f"{share:.1%}",
        )
        for index, share in label_shares(label).items()
    ]
