"""Reads the arguments of the command line, such as images, a trained network or a size, and names the results."""

from __future__ import annotations

import collections
import glob
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np

from danet_jax.data.decode import decode_image, remarks
from danet_jax.data.files import IMAGE_SUFFIXES, walk
from danet_jax.errors import InputError
from danet_jax.runs.directory import is_run
from danet_jax.runs.outputs import free_name
from danet_jax.weights.checkpoint import find
from danet_jax.weights.download import download

AnyPath = TypeVar("AnyPath", str, Path)

_LONGEST_NAME = 200  # bytes; file systems allow 255, and prefixes and suffixes are added


def read_size(arguments: list[str], mode: str) -> tuple[int, int] | None:
    """Returns the height and width from the argument HEIGHTxWIDTH, or None if there is no argument."""
    if not arguments:
        return None
    matched = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", arguments[0])
    if matched is None or len(arguments) > 1:
        text = " ".join(arguments)
        raise InputError.for_file(text, f"--mode={mode} takes one argument, an image size such as 1024x2048")
    return int(matched[1]), int(matched[2])


def find_network(workdir: Path, checkpoint: str) -> Path | str:
    """Returns what `load_checkpoint` should load: `checkpoint` if it is given, otherwise the run in `workdir`.

    Raises:
      InputError: the checkpoint or the run does not exist.
    """
    if checkpoint:
        find(checkpoint)
    elif not is_run(workdir):
        raise InputError.for_file(
            workdir,
            "is not the directory of a run; give a trained network by --workdir=RUN or --checkpoint=FILE, or "
            "train one",
        )
    return checkpoint or workdir


def find_images(arguments: list[str]) -> Iterator[Path]:
    """Yields the files among `arguments` and the images in its folders; a folder without images is yielded itself.

    Links to folders are followed, and hidden folders are skipped. Other files in the folders are counted on stderr by
    suffix. A pattern that the shell did not expand, such as '*.jpg', stands for the files and folders that match it.
    An address, such as `https://HOST/photo.jpg`, is downloaded into the cache.

    Raises:
      InputError: an argument is empty, which would stand for the current folder; a pattern matches nothing; an
        address cannot be downloaded; or `walk` refuses a folder.
    """
    for argument in arguments:
        if not argument.strip():
            raise InputError(
                f"{argument!r}: an empty argument is not an image; give a file, a folder, or . for the current folder",
                what=repr(argument),
            )
        matching = [argument]
        if "://" in argument:
            matching = [str(download(argument))]
        elif glob.has_magic(argument) and not os.path.lexists(argument):
            matching = sorted(glob.glob(argument, recursive=True))
            if not matching:
                raise InputError.for_file(argument, "no file matches this pattern")
        for path in map(Path, matching):
            yield from _find_images_in(path) if path.is_dir() else [path]


def _find_images_in(folder: Path) -> list[Path]:
    from danet_jax.data.video import is_video  # imports PyAV

    found = list(walk(folder))
    images = [path for path in found if path.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        return [folder]
    others = collections.defaultdict(list)
    for path in found:
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            others[path.suffix.lower()].append(path)
    for suffix, paths in others.items():
        kind = f"{suffix} file" if suffix else "file without a suffix"
        hint = "give videos one by one" if is_video(paths[0]) else f"images are {', '.join(IMAGE_SUFFIXES)}"
        print(f"{folder}: {len(paths)} {kind}{'s' * (len(paths) > 1)} skipped; {hint}", file=sys.stderr)
    return images


def read_image(path: Path, bits: int = 16, depth: int = 8) -> np.ndarray:
    """Returns the pixels of an image file, upright, `[H, W, 3]`, and reports on stderr what was left out.

    See `decode_image` for `bits`, which 16-bit channels use, and `depth`, the bits of the result.

    Raises:
      InputError: the file cannot be read or decoded.
    """
    data = read_file(path)
    image = decode_image(data, str(path), upright=True, bits=bits, depth=depth)
    for remark in remarks(data, str(path), bits):
        print(f"{path}: the image has {remark}", file=sys.stderr)
    return image


def read_file(path: Path) -> bytes:
    """Returns the content of a file that the user named.

    Raises:
      InputError: the file cannot be read, or is a folder, a pipe, a socket or a device.
    """
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise InputError.for_file(path, "is a pipe, a socket or a device; give a file or a folder")
    try:
        return path.read_bytes()
    except IsADirectoryError:
        suffixes = ", ".join(IMAGE_SUFFIXES)
        raise InputError.for_file(path, f"this folder contains no images ({suffixes})") from None
    except (OSError, ValueError) as error:  # a name with NUL is a ValueError
        reason = getattr(error, "strerror", error)
        raise InputError.for_file(path, f"cannot be read: {reason}") from error


def by_unique_name(paths: Iterable[AnyPath]) -> dict[str, AnyPath]:
    """Returns the paths by unique short names: those of a/x.png, b/x.png and x.jpg are x, x_2 and x_3."""
    paths = list(paths)
    return dict(zip(unique_names(map(short_name, paths)), paths, strict=True))


def unique_names(names: Iterable[str]) -> list[str]:
    """Returns the names, with a number added to each that has occurred before."""
    unique: list[str] = []
    for name in names:
        unique.append(free_name(name, unique))
    return unique


def short_name(path: str | Path) -> str:
    """Returns the prefix of the names of the results for a file or folder."""
    name = Path(path).name if Path(path).is_dir() else Path(path).stem
    return os.fsencode(name)[:_LONGEST_NAME].decode(errors="ignore") or str(path)
