"""Where a published data set's archives and folders are below the folder that a user names.

People keep them as the publisher packs them, a folder deeper or higher, by the names that other tools expect, behind
links, or twice. All sources of a data set are taken from one place where that is possible: images of one copy and
labels of another could match by name and not by content.
"""

from __future__ import annotations

import contextlib
import glob
import os
import pathlib
import re
from collections.abc import Iterator, Sequence

from danet_jax.data.builders.archives import Source
from danet_jax.data.files import is_stray
from danet_jax.errors import InputError

_MOST_FOLDERS = 2000
"""The most folders that are searched; a root with more is not that of one data set."""


Place = tuple[int, pathlib.Path, pathlib.Path]
"""How far below the root, the folder that a copy of the data set is in, and the source's archive or folder there."""


def find(root: pathlib.Path, source: Source) -> pathlib.Path | None:
    """Returns the archive or folder of one source, the nearest to `root`, or None."""
    return next((place for _, _, place in _places(root, (source,), source)), None)


def find_all(root: pathlib.Path, sources: Sequence[Source]) -> list[pathlib.Path | None]:
    """Returns the archive or folder of each source, all from one copy of the data set; None for a missing one.

    Raises:
      InputError: There are several copies, and nothing says which one to use.
    """
    found = [_apart(_places(root, sources, source)) for source in sources]
    if all(len(places) <= 1 for places in found):
        return [places[0][2] if places else None for places in found]
    tops = [{top: (depth, place) for depth, top, place in places} for places in found]
    whole = [(tops[0][top][0], top) for top in tops[0] if all(top in others for others in tops)]
    nearest = [top for depth, top in whole if depth == min(whole)[0]]
    if len(nearest) == 1:
        return [places[nearest[0]][1] for places in tops]
    source, places = next((s, p) for s, p in zip(sources, found, strict=True) if len(p) > 1)
    one, other = (place for _, _, place in places[:2])
    raise InputError(
        f"{root}: holds {source.archive}, or what it extracts to, more than once: {one} and {other}; set dataset.root "
        "to one of the copies, or remove the others",
        what=str(root),
    )


def hint(root: pathlib.Path, sources: Sequence[Source], *, none_found: bool) -> str:
    """Returns which path looks like a source that was not found, for a message.

    If `none_found` and nothing does, it names whatever is there.
    """
    if not root.exists():
        return f"; {root} does not exist"
    names = {part.casefold() for source in sources for part in _folder_of(source)}
    stems = tuple(source.archive.split(".")[0].casefold() for source in sources)
    for _, folder in _folders(root, 3):
        for path in sorted(folder.iterdir()):
            if path.name.casefold() in names or path.name.casefold().startswith(stems):
                return f"; the nearest found is {path}{_lacks(path, sources)}"
    if not none_found:
        return ""
    top = root if root.is_dir() else root.parent
    shown = [path.name for path in sorted(top.iterdir()) if not is_stray(path.name)][:5]
    return f"; found {', '.join(shown)} there" if shown else ""


def _lacks(folder: pathlib.Path, sources: Sequence[Source]) -> str:
    """What is missing in a folder that has the name of a source, for a message."""
    for source in sources:
        if folder.is_dir() and source.folder.rpartition("/")[2].casefold() == folder.name.casefold():
            missing = [part for part in source.parts if not (folder / part).exists()]
            return f", which lacks {', '.join(missing)}"
    return ""


def _places(root: pathlib.Path, sources: Sequence[Source], source: Source) -> Iterator[Place]:
    named = [(d, top, place) for d, top in _tops(root, sources) if (place := _at(top, source)) is not None]
    if named or not source.contents:
        yield from named
        return
    for depth, top in ((0, root), *_tops(root, sources)):  # renamed, or linked by another name
        if all((top / path).exists() for path in source.contents):
            yield depth, top, top


def _apart(places: Iterator[Place]) -> list[Place]:
    """The places, but for links to one that came before."""
    found: dict[pathlib.Path, Place] = {}
    for place in places:
        found.setdefault(place[2].resolve(), place)
    return list(found.values())


def _at(top: pathlib.Path, source: Source) -> pathlib.Path | None:
    """The source's archive, or what it extracts to, in one folder."""
    if (top / source.archive).is_file():
        return top / source.archive
    stem, dot, suffix = source.archive.partition(".")
    again = re.compile(
        rf"{re.escape(stem)} ?\(\d+\){re.escape(dot + suffix)}"
    )  # as browsers number downloads
    for path in sorted(top.glob(f"{glob.escape(stem)}*{suffix}")):
        if again.fullmatch(path.name) and path.is_file():
            return path
    parts = source.parts if source.any_part else source.parts[:1]
    for folder in (source.folder, *source.also):
        if any((top / folder / part).exists() for part in parts):
            return top / folder
    return None


def _tops(root: pathlib.Path, sources: Sequence[Source]) -> Iterator[tuple[int, pathlib.Path]]:
    """The folders that may hold the sources, and how far each is below the root."""
    if root.is_file():  # one of the archives
        yield 0, root.parent
        return
    yield from ((depth, folder) for depth, folder in _folders(root, 1) if depth == 0)
    for place in dict.fromkeys(
        (pathlib.Path(os.path.abspath(root)), root.resolve())
    ):  # the root may be a link
        above = set()
        for source in sources:
            for folder in filter(None, (source.folder, *source.also)):
                parts = pathlib.PurePosixPath(folder).parts
                above |= {n for n in range(1, len(parts) + 1) if place.parts[-n:] == parts[:n]}
        for count in sorted(above):
            yield 0, place.parents[count - 1]
    yield from ((depth, folder) for depth, folder in _folders(root, 3) if depth > 0)


def _folders(root: pathlib.Path, depths: int) -> Iterator[tuple[int, pathlib.Path]]:
    """The folders of a tree, breadth first, down to less than `depths` below the root."""
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


def _folder_of(source: Source) -> tuple[str, ...]:
    return pathlib.PurePosixPath(source.folder or source.parts[0]).parts[:1]
