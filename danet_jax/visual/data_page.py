"""One HTML page about a data set: warnings first, then tables, then examples with their labels laid over them."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from PIL import Image

from danet_jax.visual.packing import data_link

_LARGEST = 960
"""Pixels of the longer side of an example on the page."""

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1100px; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 } caption { font-weight: 600; text-align: left; padding: .3em 0 }
td, th { padding: .2em .8em; border-bottom: 1px solid #ddd; text-align: right } td.text, th.text { text-align: left }
.warning { background: #fff3cd; padding: .5em .8em; margin: .4em 0 } .wrong { background: #f8d7da; padding: .5em .8em;
margin: .4em 0 } figure { display: inline-block; margin: .5em; vertical-align: top } img { max-width: 510px }
i { display: inline-block; width: .9em; height: .9em; border: 1px solid #888; vertical-align: -1px }
"""


class Table(NamedTuple):
    """A table: its title, the words above its columns, and its rows, of which a colour `(r, g, b)` is shown as one."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


def data_page(
    title: str,
    *,
    wrong: Sequence[str],
    warnings: Sequence[str],
    tables: Iterable[Table],
    examples: Iterable[tuple[str, Image.Image]],
) -> str:
    """Return the page, which needs no other file.

    Args:
      title: Of the page.
      wrong: Lines about what is wrong.
      warnings: Lines about what may not be meant so.
      tables: In the order that they are shown in.
      examples: A caption and a picture each.
    """
    parts = [f"<!doctype html><meta charset=utf-8><title>{_text(title)}</title><style>{_STYLE}</style>"]
    parts.append(f"<h1>{_text(title)}</h1>")
    parts += [f"<p class=warning>{_text(line)}</p>" for line in warnings]
    parts += [f"<p class=wrong>{_text(line)}</p>" for line in wrong]
    parts += [_table(table) for table in tables]
    for caption, picture in examples:
        text = _text(caption)
        parts.append(
            f'<figure><img src="{_inline(picture)}" alt="{text}"><figcaption>{text}</figcaption></figure>'
        )
    return "\n".join(parts) + "\n"


def _table(table: Table) -> str:
    head = "".join(f"<th{_kind(column)}>{_text(column)}</th>" for column in table.columns)
    rows = "".join(
        f"<tr>{''.join(_cell(column, cell) for column, cell in zip(table.columns, row, strict=True))}</tr>"
        for row in table.rows
    )
    return f"<table><caption>{_text(table.title)}</caption><tr>{head}</tr>{rows}</table>"


def _cell(column: str, cell: object) -> str:
    if isinstance(cell, tuple):
        return f'<td><i style="background:rgb{cell}"></i></td>'
    return f"<td{_kind(column)}>{_text(str(cell))}</td>"


def _kind(column: str) -> str:
    return " class=text" if column in ("split", "class") else ""


def _text(text: str) -> str:
    return html.escape(text)


def _inline(picture: Image.Image) -> str:
    picture = picture.copy()
    picture.thumbnail((_LARGEST, _LARGEST))
    return data_link(picture)
