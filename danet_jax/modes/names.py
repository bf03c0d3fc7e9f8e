"""Short names for results of files that the user names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

AnyPath = TypeVar("AnyPath", str, Path)


def named_apart(paths: Iterable[AnyPath]) -> dict[str, AnyPath]:
    """A short name for each path, no two the same: of a/x.png, b/x.png and x.jpg these are x, x_2 and x_3."""
    names: dict[str, AnyPath] = {}
    for path in paths:
        stem = Path(path).name if Path(path).is_dir() else Path(path).stem
        name, count = stem or str(path), 1
        while name in names:
            count += 1
            name = f"{stem}_{count}"
        names[name] = path
    return names
