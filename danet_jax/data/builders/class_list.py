"""Reads lists of classes in the formats that people and tools write: CSV, `labelmap.txt`, `data.yaml`, plain names."""

from __future__ import annotations

import csv
import io
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from danet_jax.classes import IGNORE_LABEL, MAX_CLASSES, Classes
from danet_jax.data.files import read_text
from danet_jax.data.labels import bit_colours
from danet_jax.errors import InputError, one_line

Colour = tuple[int, int, int]
Rows = Sequence[tuple[int, list[str]]]
"""The line number and the cells of each row of a table."""

_COLUMNS = {
    "id": ("id", "index", "label id", "class id", "value", "pixel value", "trainid", "train id"),
    "name": ("name", "class", "label", "class name", "label name", "classname", "category"),
    "red": ("red", "r"),
    "green": ("green", "g"),
    "blue": ("blue", "b"),
    "colour": ("colour", "color", "rgb", "hex", "colour rgb", "color rgb"),
}
_COLUMN = {word: column for column, words in _COLUMNS.items() for word in words}
_EXPECTED = "the columns are id,name or id,name,red,green,blue"
_NO_CLASSES = "contains no classes; write one line per class"


class ClassList(NamedTuple):
    """Classes and the other contents of their list.

    Attributes:
      classes: The classes in the order of their ids.
      coloured: Whether the list gives the colours; otherwise, they are generated.
      ignored: Colours of ignored pixels.
    """

    classes: Classes
    coloured: bool = False
    ignored: tuple[Colour, ...] = ()


def read_classes(path: pathlib.Path, *, first_id: int = 0, ignore_label: int = IGNORE_LABEL) -> ClassList:
    """Reads a list of classes, whose format is determined by the name of the file.

    Args:
      path: A `data.yaml`, a `labelmap.txt`, another `.txt` with one name per line, or a table.
      first_id: The first id that a table may have, besides 0.
      ignore_label: The id of a table row that is not a class but gives the colour of ignored pixels.

    Raises:
      InputError: The file is not such a list; the message shows the line and what is expected there.
    """
    try:
        if path.suffix in (".yaml", ".yml"):
            return _class_list(_yaml_names(read_yaml(path)))
        if path.name == "labelmap.txt":
            return _read_labelmap(path)
        if path.suffix == ".txt":
            return _read_names(path)
        return _read_table(path, first_id, ignore_label)
    except InputError as error:
        raise error.in_file(path) from None


def list_names(names: Sequence[str], source: str) -> ClassList:
    """Returns classes with these names; errors name `source` as their origin."""
    try:
        return _class_list(list(names))
    except InputError as error:
        raise error.in_file(source) from None


def add_background(listed: ClassList) -> ClassList:
    """Returns the classes with `background` added as class 0, unless one of them is the background."""
    names, colours = listed.classes.names, listed.classes.colours
    if any(map(is_background, names)):
        return listed
    names = ("background", *names)
    coloured = listed.coloured and (0, 0, 0) not in colours
    classes = Classes(names, ((0, 0, 0), *colours)) if coloured else Classes.named(names)
    return ClassList(classes, coloured, listed.ignored)


def is_background(name: str) -> bool:
    """Returns whether a class is called `background` or, as in labelme, `_background_`."""
    return name.strip("_").casefold() == "background"


def read_yaml(path: pathlib.Path) -> dict[str, Any]:
    """Returns the content of a `data.yaml`; refuses a file that contains a key twice."""
    text = read_text(path, "YAML")
    try:
        node, values = yaml.compose(text, yaml.SafeLoader), yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError.for_file(path, f"cannot be read as YAML ({one_line(error)})") from None
    if not isinstance(values, dict):
        raise InputError.for_file(
            path, f"must contain path, train, val and names, not {type(values).__name__}"
        )
    keys = [key.value for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise InputError.for_file(path, f"contains {key} twice; remove one", value=key)
    return values


def _class_list(
    names: list[str], colours: Sequence[Colour] = (), ignored: Sequence[Colour] = ()
) -> ClassList:
    if len(names) > MAX_CLASSES:
        problem = f"{len(names)} classes; 8-bit labels allow at most {MAX_CLASSES}"
        raise InputError(problem, value=len(names), allowed=MAX_CLASSES)
    if not names:
        raise InputError(_NO_CLASSES)
    classes = Classes(tuple(names), tuple(colours)) if colours else Classes.named(names)
    return ClassList(classes, bool(colours), tuple(ignored))


def _read_labelmap(path: pathlib.Path) -> ClassList:
    """Reads the `labelmap.txt` of CVAT and Datumaro, with `name:red,green,blue:parts:actions` in each line."""
    names: list[str] = []
    colours: list[Colour] = []
    for number, text in _lines(path):
        if text.startswith("#"):
            continue
        name, colour = [*text.split(":"), ""][:2]
        if not name.strip():
            raise InputError(f"line {number}: {text!r} is not name:red,green,blue::", value=text)
        names.append(name.strip())
        if colour.strip():
            colours.append(_colour(number, {"colour": colour}))
    if colours and len(colours) != len(names):
        raise InputError(f"{len(names)} classes but {len(colours)} colours; give each class one")
    return _class_list(names, colours)


def _read_names(path: pathlib.Path) -> ClassList:
    """Reads one name per line, as in labelme's `class_names.txt`; the colours are PASCAL VOC's, as in labelme."""
    names = [text for _, text in _lines(path) if text != "__ignore__"]
    _refuse_numbered(names)
    return _class_list(names, bit_colours(range(min(len(names), 256))))


def _yaml_names(values: Mapping[str, Any]) -> list[str]:
    """Returns the names of the classes in a `data.yaml`."""
    names: Any = values.get("names")
    if isinstance(names, Mapping):
        if set(names) != set(range(len(names))):
            problem = f"the ids of names are {list(names)[:5]}, ...; they must count from 0"
            raise InputError(problem, value=names)
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(n, (str, int)) for n in names):
        raise InputError(f"names must list the classes, not {names!r}", value=names)
    for name in names:
        if isinstance(name, bool):
            problem = f"names contains {name}, as YAML reads yes, no, on and off; put it in quotes"
            raise InputError(problem, value=names)
    count = values.get("nc")
    if count not in (None, len(names)):
        raise InputError(f"nc is {count}, but there are {len(names)} names; correct one of them", value=names)
    return [str(name) for name in names]


def _refuse_numbered(names: Sequence[str]) -> None:
    """Refuses names that begin with numbers, which are rows whose cells were not separated."""
    numbered = [name for name in names if re.match(r"\d+\s*[\s:|=.)-]\s*\S", name)]
    if len(numbered) >= max(2, len(names) - 1):
        problem = f"{numbered[0]!r} is not the name of a class; separate id and name with a comma"
        raise InputError(problem, value=numbered[0])


def _lines(path: pathlib.Path) -> list[tuple[int, str]]:
    lines = enumerate(read_text(path, "a table").splitlines(), start=1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def _read_table(path: pathlib.Path, first_id: int, ignore_label: int) -> ClassList:
    """Reads a table separated by commas, semicolons or tabs; the header, ids and colours are optional."""
    rows = _rows(path)
    columns = _header(rows) if rows else []
    if columns:
        rows = rows[1:]
    if not rows:
        raise InputError(f"{_NO_CLASSES} below id,name,red,green,blue")
    columns = columns or _columns_of_data(rows)
    _refuse_unknown_ids(columns, rows, first_id)
    names: list[str] = []
    colours: list[Colour] = []
    ignored: list[Colour] = []
    start: int | None = None
    for number, cells in rows:
        row = dict(zip(columns, cells, strict=False))
        if any(cells[len(columns) :]):
            count = f"{len(cells)} cells for {len(columns)} columns"
            raise InputError(f"line {number}: {count}; put names with commas in quotes")
        colour = [_colour(number, row)] if {"red", "colour"} & set(columns) else []
        if "id" in columns:
            given = row.get("id") or None
            if given == str(ignore_label) and start is not None and int(given) != start + len(names):
                ignored += colour
                continue
            if start is None:
                start = first_id if given == str(first_id) else 0
            if given != str(expected := start + len(names)):
                problem = f"line {number}: id {given!r} should be {expected}; ids count from 0 in order"
                if given == "1":
                    problem += "; if those in the labels begin with 1, set dataset.options.label_offset=1"
                raise InputError(problem, value=given)
        name = row.get("name") or ""
        if len(name.splitlines()) != 1:
            problem = (
                f"the name {name!r} has line breaks; close its quotes" if name else "a class has no name"
            )
            raise InputError(f"line {number}: {problem}; {_EXPECTED}", value=name or None)
        names.append(name)
        colours += colour
    if "id" not in columns:
        _refuse_numbered(names)
    return _class_list(names, colours, ignored)


def _rows(path: pathlib.Path) -> Rows:
    """Returns the rows that are not empty."""
    text = read_text(path, "a table")
    first = next((line for line in text.splitlines() if line.strip()), "")
    separator = max(",;\t", key=first.count)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise InputError(f"cannot be read as a table ({error})") from None
    return [(number, cells) for number, cells in rows if any(cells)]


def _header(rows: Rows) -> list[str]:
    """Returns the columns that the first row names, or an empty list if it is not a header."""
    cells = rows[0][1]
    words = [re.sub(r"[\s_-]+", " ", cell.casefold()) for cell in cells]
    columns = [_COLUMN.get(word, word) for word in words]
    if columns[0] == "name" and "label" in words[1:]:  # In name,label the label is the id.
        columns[words.index("label")] = "id"
    for column in _COLUMNS:
        if columns.count(column) > 1:
            raise InputError(f"contains the column {column} twice; remove one", value=column)
    if any(cell.isdigit() for cell in cells):
        return []
    numbers = all(cell.isdigit() for _, row in rows[1:] for cell in row)
    if "name" not in columns and set(columns) <= set(_COLUMNS) and (numbers or len(columns) > 1):
        problem = f"the columns are {', '.join(cells)}, but none contains names; {_EXPECTED}"
        raise InputError(problem, value=cells)
    return columns if "name" in columns else []


def _columns_of_data(rows: Rows) -> list[str]:
    """Infers the columns of a table without a header from their content."""
    number, cells = rows[0]
    numeric = [re.fullmatch(r"-?\d+", cell) is not None for cell in cells]
    for columns in ("id name red green blue", "id name", "name red green blue", "name"):
        single = columns != "name" or all(len(row) == 1 for _, row in rows)
        if single and numeric == [column != "name" for column in columns.split()]:
            return columns.split()
    row = ",".join(cells)
    raise InputError(f"line {number}: {row!r} is neither a class nor a header; {_EXPECTED}", value=row)


def _refuse_unknown_ids(columns: Sequence[str], rows: Rows, first_id: int) -> None:
    """Refuses a table without the column `id` if an unknown column of numbers may contain the ids in another order."""
    for index, column in enumerate(columns):
        values = [cells[index] for _, cells in rows if index < len(cells)]
        numbers = all(re.fullmatch(r"-?\d+", value) for value in values)
        in_order = any(values == [str(start + row) for row in range(len(values))] for start in (0, first_id))
        if "id" not in columns and column not in _COLUMNS and numbers and not in_order:
            problem = f"the column {column!r} contains numbers, but its meaning is unknown; call it id if it contains"
            raise InputError(f"{problem} the ids of the classes, or remove it; {_EXPECTED}", value=column)


def _colour(number: int, row: Mapping[str, str]) -> Colour:
    """Returns the colour in a row, from its cells `red`, `green` and `blue` or its cell `colour`."""
    cells = [row.get(channel, "") for channel in ("red", "green", "blue")]
    if "colour" in row:
        hexadecimal = re.fullmatch(r"#?([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})", row["colour"])
        cells = re.findall(r"\d+", row["colour"])
        if hexadecimal:
            cells = [str(int(part, 16)) for part in hexadecimal.groups()]
        elif len(cells) != 3 or re.search(r"[^\d\s,;()\[\]]", row["colour"]):
            problem = f"the colour {row['colour']!r} is neither #RRGGBB nor three numbers"
            raise InputError(f"line {number}: {problem}", value=row["colour"])
    if not all(re.fullmatch(r"\d+", cell) for cell in cells):
        raise InputError(f"line {number}: red, green and blue must be integers")
    red, green, blue = map(int, cells)
    if max(red, green, blue) > 255:
        problem = f"the colour {(red, green, blue)} is outside 0 to 255"
        raise InputError(f"line {number}: {problem}", value=(red, green, blue))
    return red, green, blue
