"""Digests of a checkpoint's files, by which one that was changed, cut, lost or swapped is found before it is used.

Orbax and its storage find what makes a file unreadable; a flipped bit of a weight is read like any other.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from danet_jax.errors import InputError
from danet_jax.runs.reading import read_json
from danet_jax.runs.writing import write_json

MANIFEST = "digests.json"
"""Size and CRC-32 of every other file of the checkpoint, by its name in there."""

# What is written after the checkpoint has its name, and carries a digest of its own.
_LATER = ("metrics",)
# And what marks it as whole, in a bucket.
_MARK = "commit_success.txt"
# Orbax notes in it the time at which the checkpoint gets its name.
_TIMED = "_CHECKPOINT_METADATA"
_CHUNK = 1 << 18  # stays in a core's cache
_THREADS = 8


def write_digests(folder: epath.Path) -> None:
    """Writes the digests of all files in `folder`."""
    names = list(_files(folder, folder))
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        digests = pool.map(lambda name: _digest(folder / name), names)
    files = dict(zip(names, digests, strict=True))
    write_json(folder / MANIFEST, {"files": files, "digest": _digest_of_digests(files)})


def refuse_changed(folder: epath.PathLike, items: Sequence[str] = ()) -> None:
    """Holds the files of a checkpoint against their digests.

    Args:
      folder: the checkpoint.
      items: names of those sub-folders whose content is read; the others need only be there. None is all.

    Raises:
      InputError: a file differs from what was written, is missing, or was not there; the message names it.
    """
    folder = epath.Path(folder)
    if not (folder / MANIFEST).exists():
        raise InputError(f"{folder}: is no whole checkpoint ({MANIFEST} is missing)")
    content = read_json(folder / MANIFEST)
    expected = content.get("files")
    if not isinstance(expected, dict) or content.get("digest") != _digest_of_digests(expected):
        raise InputError(f"{folder / MANIFEST}: was changed since it was written (its digest differs)")
    found = set(_files(folder, folder))
    for name in sorted(expected.keys() ^ found):
        state = "is missing" if name in expected else "was not written by the run"
        raise InputError(f"{folder / name}: {state}")
    names = sorted(name for name in found if not items or name.split("/")[0] in items)
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        for name, digest in zip(names, pool.map(lambda name: _digest(folder / name), names), strict=True):
            if digest != expected[name]:
                raise InputError(f"{folder / name}: was changed since it was written (its digest differs)")


def _digest_of_digests(files: Mapping[str, Any]) -> int:
    return digest_of_text(json.dumps(files, sort_keys=True))


def digest_of_text(text: str) -> int:
    """CRC-32 of a text in UTF-8."""
    return zlib.crc32(text.encode())


def _files(folder: epath.Path, top: epath.Path) -> Iterator[str]:
    for path in folder.iterdir():
        name = str(path.relative_to(top))
        if name in (MANIFEST, _MARK, *_LATER):
            continue
        if os.path.islink(path):
            raise InputError(f"{path}: is a link, which no run writes")
        if path.is_dir():
            yield from _files(path, top)
        else:
            yield name


def _digest(path: epath.Path) -> list[int]:
    if path.name == _TIMED:
        try:
            content = read_json(path)
        except InputError:
            return []
        text = json.dumps({**content, "commit_timestamp_nsecs": None})
        return [len(text), digest_of_text(text)]
    size, crc = 0, 0
    chunk = memoryview(bytearray(_CHUNK))
    with path.open("rb") as file:
        while length := file.readinto(chunk):
            size += length
            crc = zlib.crc32(chunk[:length], crc)
    return [size, crc]
