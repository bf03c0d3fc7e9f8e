"""Short names for results of files that the user names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

AnyPath = TypeVar("AnyPath", str, Path)

_LONGEST = 200


def named_apart(paths: Iterable[AnyPath]) -> dict[str, AnyPath]:
    """A short name for each path, no two the same: of a/x.png, b/x.png and x.jpg these are x, x_2 and x_3.

    File systems take names of 255 bytes, and something is put before and behind these.
    """
    paths = list(paths)
    stems = (Path(path).name if Path(path).is_dir() else Path(path).stem for path in paths)
    names = [_shortened(stem) or str(path) for stem, path in zip(stems, paths, strict=True)]
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


def _shortened(name: str) -> str:
    stored = os.fsencode(name)
    return name if len(stored) <= _LONGEST else stored[:_LONGEST].decode(errors="ignore")
