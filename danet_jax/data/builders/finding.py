"""Finds the archives and folders of a published data set below the folder that a user names.

They may be packed as published, one folder deeper or higher, named as other tools expect, behind links, or present
twice. If possible, all sources of a data set are taken from the same copy, because images of one copy and labels of
another could match by name but not by content.
"""

from __future__ import annotations

import contextlib
import glob
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from danet_jax.data.builders.archives import Source
from danet_jax.data.files import is_stray
from danet_jax.errors import InputError

_MOST_FOLDERS = 2000
"""The largest number of folders that are searched; a root with more is not that of a single data set."""


class _Copy(NamedTuple):
    depth: int  # The depth of `top` below the root.
    top: pathlib.Path  # The folder that contains a copy of the data set.
    path: pathlib.Path  # The archive or folder of the source in `top`.


def find(root: pathlib.Path, source: Source) -> pathlib.Path | None:
    """Returns the archive or folder of one source that is nearest to `root`, or None."""
    return next((copy.path for copy in _copies(root, (source,), source)), None)


def find_all(root: pathlib.Path, sources: Sequence[Source]) -> list[pathlib.Path | None]:
    """Returns the archive or folder of each source, all from one copy of the data set; None for a missing one.

    Raises:
      InputError: There are several copies and no reason to prefer one.
    """
    by_source = []  # The copies of each source, by the folder that contains them.
    for source in sources:
        distinct: dict[pathlib.Path, _Copy] = {}
        for copy in _copies(root, sources, source):
            distinct.setdefault(copy.path.resolve(), copy)  # The others are links to it.
        by_source.append({copy.top: copy for copy in distinct.values()})
    if all(len(copies) <= 1 for copies in by_source):
        return [next((copy.path for copy in copies.values()), None) for copies in by_source]
    complete = [copy for top, copy in by_source[0].items() if all(top in copies for copies in by_source)]
    nearest = [copy.top for copy in complete if copy.depth == min(complete).depth]
    if len(nearest) == 1:
        return [copies[nearest[0]].path for copies in by_source]
    source, copies = next((s, c) for s, c in zip(sources, by_source, strict=True) if len(c) > 1)
    first, second = (copy.path for copy in list(copies.values())[:2])
    raise InputError.for_file(
        root,
        f"contains {source.archive}, or what it extracts to, more than once: {first} and {second}; set dataset.root to "
        "one of the copies, or remove the others",
    )


def hint(root: pathlib.Path, sources: Sequence[Source]) -> str:
    """Describes a path that resembles a missing source, or else the files that exist, for a message."""
    if not root.exists():
        return f"; {root} does not exist"
    for path in (path for _, folder in _folders(root, 3) for path in sorted(folder.iterdir())):
        for source in sources:
            top = pathlib.PurePosixPath(source.folder or source.parts[0]).parts[0]
            stem = source.archive.partition(".")[0]
            if path.name.casefold() == top.casefold() or path.name.casefold().startswith(stem.casefold()):
                lacks = ", ".join(part for part in source.parts if not (path / part).exists())
                incomplete = path.is_dir() and top == source.folder and lacks
                return f"; the nearest match is {path}" + (f", which lacks {lacks}" if incomplete else "")
    names = [path.name for path in sorted((root if root.is_dir() else root.parent).iterdir())]
    found = [name for name in names if not is_stray(name)][:5]
    return f"; found {', '.join(found)} there" if found else ""


def _copies(root: pathlib.Path, sources: Sequence[Source], source: Source) -> Iterator[_Copy]:
    """Yields where a source is, nearest first: folders with one of its names, or else folders with its contents."""
    tops = list(_tops(root, sources))
    named = [_Copy(depth, top, path) for depth, top in tops if (path := _path_in(top, source))]
    yield from named
    if source.contents and not named:
        for depth, top in tops:
            if all((top / path).exists() for path in source.contents):
                yield _Copy(depth, top, top)


def _path_in(top: pathlib.Path, source: Source) -> pathlib.Path | None:
    """Returns the archive of a source, or the folder that was extracted from it, in one folder."""
    if (top / source.archive).is_file():
        return top / source.archive
    stem, _, suffix = source.archive.partition(".")
    # Browsers number repeated downloads.
    numbered = re.compile(rf"{re.escape(stem)} ?\(\d+\)\.{re.escape(suffix)}")
    for path in sorted(top.glob(f"{glob.escape(stem)}*{suffix}")):
        if numbered.fullmatch(path.name) and path.is_file():
            return path
    parts = source.parts if source.any_part else source.parts[:1]
    folders = (top / folder for folder in (source.folder, *source.also))
    return next((path for path in folders if any((path / part).exists() for part in parts)), None)


def _tops(root: pathlib.Path, sources: Sequence[Source]) -> Iterator[tuple[int, pathlib.Path]]:
    """Yields the folders that may contain the sources, with their depth below the root."""
    if root.is_file():  # The root is one of the archives.
        yield 0, root.parent
        return
    below = list(_folders(root, 3))
    yield from below[:1]
    for path in dict.fromkeys((pathlib.Path(os.path.abspath(root)), root.resolve())):  # It may be a link.
        above = set()
        for source in sources:
            for folder in filter(None, (source.folder, *source.also)):
                parts = pathlib.PurePosixPath(folder).parts
                above |= {n for n in range(1, len(parts) + 1) if path.parts[-n:] == parts[:n]}
        for count in sorted(above):
            yield 0, path.parents[count - 1]
    yield from below[1:]


def _folders(root: pathlib.Path, depths: int) -> Iterator[tuple[int, pathlib.Path]]:
    """Yields the folders of a tree and their depths in breadth-first order; all depths are less than `depths`."""
    level, count = [root] if root.is_dir() else [], 0
    for depth in range(depths):
        yield from ((depth, folder) for folder in level)
        count += len(level)
        if depth + 1 == depths or count > _MOST_FOLDERS:
            return
        below = []
        for folder in level:
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                below += [folder / e.name for e in entries if e.is_dir() and not is_stray(e.name)]
        level = sorted(below)
