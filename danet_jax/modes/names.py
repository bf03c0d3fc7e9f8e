"""Short names for results of files that the user names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

AnyPath = TypeVar("AnyPath", str, Path)


def named_apart(paths: Iterable[AnyPath]) -> dict[str, AnyPath]:
    """A short name for each path, no two the same: of a/x.png, b/x.png and x.jpg these are x, x_2 and x_3."""
    paths = list(paths)
    stems = (Path(path).name if Path(path).is_dir() else Path(path).stem for path in paths)
    names = [stem or str(path) for stem, path in zip(stems, paths, strict=True)]
    return dict(zip(apart(names), paths, strict=True))


def apart(names: Iterable[str]) -> Iterator[str]:
    """The names, those that there were before with a number behind them."""
    taken: set[str] = set()
    for name in names:
        new, count = name, 1
        while new in taken:
            count += 1
            new = f"{name}_{count}"
        taken.add(new)
        yield new
