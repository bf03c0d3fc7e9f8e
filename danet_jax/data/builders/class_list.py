"""Lists of classes as people and their tools write them: CSV of any kind, `labelmap.txt`, plain names."""

from __future__ import annotations

import csv
import io
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from danet_jax.classes import IGNORE_LABEL, MAX_CLASSES, Classes
from danet_jax.data.files import read_text
from danet_jax.data.labels import bit_colours
from danet_jax.errors import InputError

Colour = tuple[int, int, int]

_COLUMNS = {
    "id": ("id", "index", "label id", "class id", "value", "trainid", "train id"),
    "name": ("name", "class", "label", "class name", "label name", "classname", "category"),
    "red": ("red", "r"),
    "green": ("green", "g"),
    "blue": ("blue", "b"),
    "colour": ("colour", "color", "rgb", "hex", "colour rgb", "color rgb"),
}
_COLUMN = {word: column for column, words in _COLUMNS.items() for word in words}
_DUE = "the columns are id,name or id,name,red,green,blue"


class ClassList(NamedTuple):
    """Classes, and what else their list says.

    Attributes:
      classes: The classes in the order of their ids.
      coloured: Whether the list gave their colours; else they were chosen here.
      ignored: Colours of what is ignored.
    """

    classes: Classes
    coloured: bool = False
    ignored: tuple[Colour, ...] = ()


def read_classes(path: pathlib.Path, *, first_id: int = 0, ignore_label: int = IGNORE_LABEL) -> ClassList:
    """Read a table of classes: commas, semicolons or tabs; with or without a header, ids and colours.

    Args:
      path: The file, in UTF-8, UTF-16 or Windows' code page 1252.
      first_id: What ids may count from, besides 0.
      ignore_label: A row of this id is no class: it gives the colour of what is ignored.

    Raises:
      InputError: It is no such table; the message shows the line and what is due there.
    """
    rows = _rows(path)
    if not rows:
        raise InputError(f"{path}: no classes in it; write one line per class below id,name,red,green,blue")
    columns = _header(path, rows[0][1])
    if columns:
        rows = rows[1:]
    else:
        columns = _columns_of_data(path, rows)
    if not rows:
        raise InputError(f"{path}: no classes in it; write one line per class below id,name,red,green,blue")
    names: list[str] = []
    colours: list[Colour] = []
    ignored: list[Colour] = []
    start: int | None = None
    for number, cells in rows:
        line = f"{path}, line {number}"
        row = dict(zip(columns, cells, strict=False))
        if any(cells[len(columns) :]):
            raise InputError(
                f"{line}: {len(cells)} cells where there are {len(columns)} columns; put names with commas in quotes"
            )
        colour = _colour(line, row) if {"red", "colour"} & set(columns) else None
        if "id" in columns:
            given = row.get("id") or None
            if given == str(ignore_label) and start is not None and int(given) != start + len(names):
                ignored += [colour] if colour else []
                continue
            if start is None and given == str(first_id):
                start = first_id
            start = start or 0
            if given != str(start + len(names)):
                raise InputError(
                    f"{line}: id {given!r} where {start + len(names)} is due; ids count from 0 in order"
                    + ("; if labels do from 1, set dataset.options.label_offset=1" if given == "1" else "")
                )
        if not row.get("name"):
            raise InputError(f"{line}: the class has no name; {_DUE}")
        if len(row["name"].splitlines()) > 1:
            raise InputError(f"{line}: the name {row['name']!r} has line breaks; close its quotes")
        names.append(row["name"])
        colours += [colour] if colour else []
    if "id" not in columns:
        _refuse_numbered(path, names)
    return _checked(path, names, colours, tuple(ignored))


def read_labelmap(path: pathlib.Path) -> ClassList:
    """Read `labelmap.txt` as CVAT and Datumaro write it: `name:red,green,blue:parts:actions` in each line."""
    names: list[str] = []
    colours: list[Colour] = []
    for number, text in _lines(path):
        if text.startswith("#"):
            continue
        name, *rest = text.split(":")
        match = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*", rest[0]) if rest else None
        line = f"{path}, line {number}"
        if not name.strip() or (rest and rest[0].strip() and not match):
            raise InputError(f"{line}: {text!r} where name:red,green,blue:: is due")
        names.append(name.strip())
        if match:
            row = dict(zip(("red", "green", "blue"), match.groups(), strict=True))
            colours.append(_colour(line, row))
    if not names:
        raise InputError(f"{path}: no classes in it; one line per class, name:red,green,blue::")
    if colours and len(colours) != len(names):
        raise InputError(f"{path}: {len(names)} classes but {len(colours)} colours; give each class one")
    return _checked(path, names, colours, ())


def read_names(path: pathlib.Path) -> ClassList:
    """Read names, one in each line, as labelme's `class_names.txt`; their colours are PASCAL VOC's, as labelme's."""
    names = [text for _, text in _lines(path) if text != "__ignore__"]
    _refuse_numbered(path, names)
    if not names:
        raise InputError(f"{path}: no classes in it; write the name of one in each line")
    return _checked(path, names, list(bit_colours(range(min(len(names), 256)))), ())


def named(names: Sequence[str], where: str) -> ClassList:
    """Return classes of these names.

    Raises:
      InputError: There are too few, too many, or a name twice; `where` says where they were given.
    """
    return _checked(where, list(names), [], ())


def refuse_only_class(where: pathlib.Path | str, names: Sequence[str]) -> None:
    """Raise InputError if there is a single class."""
    if len(names) == 1:
        raise InputError(
            f"{where}: {names[0]!r} is the only class, so that any network gets 100 %; add one for all that it is not, "
            "such as background"
        )


def _checked(
    where: pathlib.Path | str, names: list[str], colours: list[Colour], ignored: tuple[Colour, ...]
) -> ClassList:
    if len(names) > MAX_CLASSES:
        raise InputError(f"{where}: {len(names)} classes; 8-bit labels allow at most {MAX_CLASSES}")
    refuse_only_class(where, names)
    try:
        classes = Classes(tuple(names), tuple(colours)) if colours else Classes.named(names)
    except ValueError as error:  # a name twice
        raise InputError(f"{where}: {error}") from None
    return ClassList(classes, bool(colours), ignored)


def _refuse_numbered(path: pathlib.Path, names: Sequence[str]) -> None:
    """Names that begin with numbers are rows whose cells are not told apart."""
    numbered = [name for name in names if re.match(r"\d+\s*[\s:|=.)-]\s*\S", name)]
    if len(numbered) >= max(2, len(names) - 1):
        raise InputError(
            f"{path}: {numbered[0]!r} is not the name of a class; separate id and name with a comma"
        )


def _rows(path: pathlib.Path) -> list[tuple[int, list[str]]]:
    """Number of the line and cells of each row that is not empty."""
    text = read_text(path, "a table")
    first = next((line for line in text.splitlines() if line.strip()), "")
    separator = max(",;\t", key=first.count)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise InputError(f"{path}: cannot be read as a table ({error})") from None
    return [(number, cells) for number, cells in rows if any(cells)]


def _lines(path: pathlib.Path) -> list[tuple[int, str]]:
    lines = enumerate(read_text(path, "a table").splitlines(), start=1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def _header(path: pathlib.Path, cells: Sequence[str]) -> list[str]:
    """The columns that a header names; nothing if it is none."""
    words = [re.sub(r"[\s_-]+", " ", cell.casefold()) for cell in cells]
    columns = [_COLUMN.get(word, word) for word in words]
    if columns and columns[0] == "name" and "label" in words[1:]:  # name,label: then label is the id
        columns[words.index("label")] = "id"
    for column in _COLUMNS:
        if columns.count(column) > 1:
            raise InputError(f"{path}: has the column {column} twice; remove one")
    return columns if "name" in columns and not any(cell.isdigit() for cell in cells) else []


def _columns_of_data(path: pathlib.Path, rows: Sequence[tuple[int, list[str]]]) -> list[str]:
    """The columns of a table without a header, by what stands in them."""
    number, cells = rows[0]
    kinds = ["number" if re.fullmatch(r"-?\d+", cell) else "text" for cell in cells]
    for columns in (["id", "name", "red", "green", "blue"], ["id", "name"], ["name", "red", "green", "blue"]):
        if kinds == ["text" if column == "name" else "number" for column in columns]:
            return columns
    if kinds == ["text"] and all(len(row) == 1 for _, row in rows):
        return ["name"]
    raise InputError(f"{path}, line {number}: {','.join(cells)!r} is neither a class nor a header; {_DUE}")


def _colour(line: str, row: dict[str, str]) -> Colour:
    if "colour" in row:
        hexadecimal = re.fullmatch(r"#?([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})", row["colour"])
        numbers = re.findall(r"\d+", row["colour"])
        if hexadecimal is None and (len(numbers) != 3 or re.search(r"[^\d\s,;()\[\]]", row["colour"])):
            raise InputError(f"{line}: the colour {row['colour']!r} is neither #RRGGBB nor three numbers")
        values = [str(int(part, 16)) for part in hexadecimal.groups()] if hexadecimal else numbers
        row = dict(zip(("red", "green", "blue"), values, strict=True))
    try:
        red, green, blue = (int(row[channel]) for channel in ("red", "green", "blue"))
    except (KeyError, ValueError):
        raise InputError(f"{line}: red, green and blue must be whole numbers") from None
    if not all(0 <= value <= 255 for value in (red, green, blue)):
        raise InputError(f"{line}: the colour {(red, green, blue)} is outside 0 to 255")
    return red, green, blue
