"""Lists of classes as people and their tools write them: CSV, `labelmap.txt`, `data.yaml`, plain names."""

from __future__ import annotations

import csv
import io
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from danet_jax.classes import IGNORE_LABEL, MAX_CLASSES, Classes
from danet_jax.data.builders.own_layouts import read_yaml
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
_UNDERSTOOD = "the columns are id,name or id,name,red,green,blue"


class ClassList(NamedTuple):
    """Classes, and what else their list says.

    Attributes:
      classes: the classes in the order of their ids.
      coloured: whether the list gives their colours; otherwise they are chosen here.
      ignored: colours of ignored pixels.
    """

    classes: Classes
    coloured: bool = False
    ignored: tuple[Colour, ...] = ()


def read_classes(path: pathlib.Path, *, first_id: int = 0, ignore_label: int = IGNORE_LABEL) -> ClassList:
    """Reads the list of classes in `path`, whose name says what kind of list it is.

    Args:
      path: a `data.yaml`, a `labelmap.txt`, another `.txt` with one name per line, or a table.
      first_id: the id from which a table may count, besides 0.
      ignore_label: a row of a table with this id is not a class; it gives the colour of ignored pixels.

    Raises:
      InputError: it is not such a list; the message shows the line and what is expected there.
    """
    if path.suffix in (".yaml", ".yml"):
        return named(_yaml_names(path), str(path))
    if path.name == "labelmap.txt":
        return _read_labelmap(path)
    return _read_names(path) if path.suffix == ".txt" else _read_table(path, first_id, ignore_label)


def named(names: Sequence[str], where: str) -> ClassList:
    """Returns classes of these names; `where` says in an error where they were given.

    Raises:
      InputError: there are too few or too many, or a name occurs twice.
    """
    return _checked(where, list(names), [], ())


def refuse_only_class(where: pathlib.Path | str, names: Sequence[str]) -> None:
    """Raises InputError if there is a single class."""
    if len(names) == 1:
        raise InputError(
            f"{where}: {names[0]!r} is the only class, so that any network gets 100 %; add one for everything else, "
            "such as background",
            what=str(where),
        )


def _checked(
    where: pathlib.Path | str, names: list[str], colours: list[Colour], ignored: tuple[Colour, ...]
) -> ClassList:
    if len(names) > MAX_CLASSES:
        raise InputError(
            f"{where}: {len(names)} classes; 8-bit labels allow at most {MAX_CLASSES}",
            what=str(where),
            value=len(names),
            allowed=MAX_CLASSES,
        )
    refuse_only_class(where, names)
    try:
        classes = Classes(tuple(names), tuple(colours)) if colours else Classes.named(names)
    except InputError as error:  # a name occurs twice
        raise error.in_file(where) from None
    return ClassList(classes, bool(colours), ignored)


def _read_table(path: pathlib.Path, first_id: int, ignore_label: int) -> ClassList:
    """Reads a table with commas, semicolons or tabs, with or without a header, ids and colours."""
    rows = _rows(path)
    columns = _header(path, rows) if rows else []
    if columns:
        rows = rows[1:]
    if not rows:
        raise InputError(
            f"{path}: no classes in it; write one line per class below id,name,red,green,blue", what=str(path)
        )
    columns = columns or _columns_of_data(path, rows)
    _refuse_unknown_ids(path, columns, rows, first_id)
    names: list[str] = []
    colours: list[Colour] = []
    ignored: list[Colour] = []
    start: int | None = None
    for number, cells in rows:
        line = _Line(path, number)
        row = dict(zip(columns, cells, strict=False))
        if any(cells[len(columns) :]):
            raise line.error(
                f"{len(cells)} cells where there are {len(columns)} columns; put names with commas in quotes"
            )
        colour = _colour(line, row) if {"red", "colour"} & set(columns) else None
        if "id" in columns:
            given = row.get("id") or None
            if given == str(ignore_label) and start is not None and int(given) != start + len(names):
                ignored += [colour] if colour else []
                continue
            if start is None:
                start = first_id if given == str(first_id) else 0
            if given != str(start + len(names)):
                raise line.error(
                    f"id {given!r} where {start + len(names)} is expected; ids count from 0 in order"
                    + ("; if labels do from 1, set dataset.options.label_offset=1" if given == "1" else ""),
                    given,
                )
        if not row.get("name"):
            raise line.error(f"the class has no name; {_UNDERSTOOD}")
        if len(row["name"].splitlines()) > 1:
            raise line.error(f"the name {row['name']!r} has line breaks; close its quotes", row["name"])
        names.append(row["name"])
        colours += [colour] if colour else []
    if "id" not in columns:
        _refuse_numbered(path, names)
    return _checked(path, names, colours, tuple(ignored))


def _read_labelmap(path: pathlib.Path) -> ClassList:
    """Reads `labelmap.txt` as CVAT and Datumaro write it: `name:red,green,blue:parts:actions` in each line."""
    names: list[str] = []
    colours: list[Colour] = []
    for number, text in _lines(path):
        if text.startswith("#"):
            continue
        name, *rest = text.split(":")
        match = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*", rest[0]) if rest else None
        line = _Line(path, number)
        if not name.strip() or (rest and rest[0].strip() and not match):
            raise line.error(f"{text!r} where name:red,green,blue:: is expected", text)
        names.append(name.strip())
        if match:
            row = dict(zip(("red", "green", "blue"), match.groups(), strict=True))
            colours.append(_colour(line, row))
    if not names:
        raise InputError(
            f"{path}: no classes in it; one line per class, name:red,green,blue::", what=str(path)
        )
    if colours and len(colours) != len(names):
        raise InputError(
            f"{path}: {len(names)} classes but {len(colours)} colours; give each class one", what=str(path)
        )
    return _checked(path, names, colours, ())


def _read_names(path: pathlib.Path) -> ClassList:
    """Reads one name per line, as in labelme's `class_names.txt`; the colours are PASCAL VOC's, as labelme's."""
    names = [text for _, text in _lines(path) if text != "__ignore__"]
    _refuse_numbered(path, names)
    if not names:
        raise InputError(f"{path}: no classes in it; write the name of one in each line", what=str(path))
    return _checked(path, names, list(bit_colours(range(min(len(names), 256)))), ())


def _yaml_names(path: pathlib.Path) -> list[str]:
    """Returns the names of the classes in a `data.yaml`."""
    values = read_yaml(path)
    names: Any = values.get("names")
    count = values.get("nc")
    problem = None
    if isinstance(names, Mapping):
        if set(names) != set(range(len(names))):
            problem = f"the ids of names are {list(names)[:5]}, ...; they must count from 0"
        else:
            names = [names[index] for index in range(len(names))]
    if problem is None:
        if not isinstance(names, list) or not names or not all(isinstance(n, (str, int)) for n in names):
            problem = f"names must list the classes, not {names!r}"
        elif switches := [name for name in names if isinstance(name, bool)]:
            problem = f"names holds {switches[0]}, as YAML reads yes, no, on and off; put it in quotes"
        elif count not in (None, len(names)):
            problem = f"nc is {count}, but there are {len(names)} names; correct one of them"
    if problem is not None:
        raise InputError(f"{path}: {problem}", what=str(path), value=names)
    return [str(name) for name in names]


class _Line(NamedTuple):
    """A line of a file, for error messages."""

    path: pathlib.Path
    number: int

    def error(self, problem: str, value: object = None) -> InputError:
        return InputError(f"{self.path}, line {self.number}: {problem}", what=str(self.path), value=value)


def _refuse_numbered(path: pathlib.Path, names: Sequence[str]) -> None:
    """Refuses names that begin with numbers: they are rows whose cells were not separated."""
    numbered = [name for name in names if re.match(r"\d+\s*[\s:|=.)-]\s*\S", name)]
    if len(numbered) >= max(2, len(names) - 1):
        raise InputError(
            f"{path}: {numbered[0]!r} is not the name of a class; separate id and name with a comma",
            what=str(path),
            value=numbered[0],
        )


def _rows(path: pathlib.Path) -> list[tuple[int, list[str]]]:
    """Returns the line number and the cells of each row that is not empty."""
    text = read_text(path, "a table")
    first = next((line for line in text.splitlines() if line.strip()), "")
    separator = max(",;\t", key=first.count)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise InputError(f"{path}: cannot be read as a table ({error})", what=str(path)) from None
    return [(number, cells) for number, cells in rows if any(cells)]


def _lines(path: pathlib.Path) -> list[tuple[int, str]]:
    lines = enumerate(read_text(path, "a table").splitlines(), start=1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def _header(path: pathlib.Path, rows: Sequence[tuple[int, list[str]]]) -> list[str]:
    """Returns the columns that the first row names, or nothing if it is not a header."""
    cells = rows[0][1]
    words = [re.sub(r"[\s_-]+", " ", cell.casefold()) for cell in cells]
    columns = [_COLUMN.get(word, word) for word in words]
    if columns and columns[0] == "name" and "label" in words[1:]:  # name,label: then label is the id
        columns[words.index("label")] = "id"
    for column in _COLUMNS:
        if columns.count(column) > 1:
            raise InputError(
                f"{path}: has the column {column} twice; remove one", what=str(path), value=column
            )
    if any(cell.isdigit() for cell in cells):
        return []
    numbers = all(cell.isdigit() for _, row in rows[1:] for cell in row)
    if "name" not in columns and set(columns) <= set(_COLUMNS) and (numbers or len(columns) > 1):
        raise InputError(
            f"{path}: has the columns {', '.join(cells)} and none with names; {_UNDERSTOOD}",
            what=str(path),
            value=cells,
        )
    return columns if "name" in columns else []


def _refuse_unknown_ids(
    path: pathlib.Path, columns: Sequence[str], rows: Sequence[tuple[int, list[str]]], first_id: int
) -> None:
    """Refuses a table without the column id that has a column of numbers which may be the ids, in another order."""
    if "id" in columns:
        return
    for index, column in enumerate(columns):
        values = [cells[index] for _, cells in rows if index < len(cells)]
        numbers = all(re.fullmatch(r"-?\d+", value) for value in values)
        in_order = any(values == [str(start + row) for row in range(len(values))] for start in (0, first_id))
        if column not in _COLUMNS and numbers and not in_order:
            known = ", ".join(name for name in columns if name in _COLUMNS)
            raise InputError(
                f"{path}: the column {column!r} holds numbers, and only {known} of its columns are understood; call it "
                f"id if it holds the ids of the classes, or remove it; {_UNDERSTOOD}",
                what=str(path),
                value=column,
            )


def _columns_of_data(path: pathlib.Path, rows: Sequence[tuple[int, list[str]]]) -> list[str]:
    """Returns the columns of a table without a header, judging by their content."""
    number, cells = rows[0]
    kinds = ["number" if re.fullmatch(r"-?\d+", cell) else "text" for cell in cells]
    for columns in (["id", "name", "red", "green", "blue"], ["id", "name"], ["name", "red", "green", "blue"]):
        if kinds == ["text" if column == "name" else "number" for column in columns]:
            return columns
    if kinds == ["text"] and all(len(row) == 1 for _, row in rows):
        return ["name"]
    row = ",".join(cells)
    raise _Line(path, number).error(f"{row!r} is neither a class nor a header; {_UNDERSTOOD}", row)


def _colour(line: _Line, row: dict[str, str]) -> Colour:
    if "colour" in row:
        hexadecimal = re.fullmatch(r"#?([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})", row["colour"])
        numbers = re.findall(r"\d+", row["colour"])
        if hexadecimal is None and (len(numbers) != 3 or re.search(r"[^\d\s,;()\[\]]", row["colour"])):
            raise line.error(
                f"the colour {row['colour']!r} is neither #RRGGBB nor three numbers", row["colour"]
            )
        values = [str(int(part, 16)) for part in hexadecimal.groups()] if hexadecimal else numbers
        row = dict(zip(("red", "green", "blue"), values, strict=True))
    try:
        red, green, blue = (int(row[channel]) for channel in ("red", "green", "blue"))
    except (KeyError, ValueError):
        raise line.error("red, green and blue must be whole numbers") from None
    if not all(0 <= value <= 255 for value in (red, green, blue)):
        raise line.error(f"the colour {(red, green, blue)} is outside 0 to 255", (red, green, blue))
    return red, green, blue
