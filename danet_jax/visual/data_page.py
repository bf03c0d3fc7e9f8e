"""One HTML page about a data set: warnings first, then tables, then examples with their labels laid over them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from danet_jax.visual.packing import data_link, write_page

_LARGEST = 960
"""Pixels of the longer side of an example on the page."""


class Table(NamedTuple):
    """A table: its title, the words above its columns, and its rows, of which a colour `(r, g, b)` is shown as one."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


def write_data_page(
    path: Path,
    title: str,
    *,
    wrong: Sequence[str],
    warnings: Sequence[str],
    tables: Iterable[Table],
    examples: Iterable[tuple[str, Image.Image]],
) -> None:
    """Writes the page, which needs no other file.

    Args:
      path: Of the file.
      title: Of the page.
      wrong: Lines about what is wrong.
      warnings: Lines about what may not be meant so.
      tables: In the order that they are shown in.
      examples: A caption and a picture each.
    """
    links = []
    for caption, picture in examples:
        small = picture.copy()
        small.thumbnail((_LARGEST, _LARGEST))
        links.append((caption, data_link(small)))
    write_page(
        path, "data.html", (), {}, title=title, wrong=wrong, warnings=warnings, tables=tables, examples=links
    )
