"""Publishers' label files, PNG or MATLAB's, to PNG of train ids."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence

import numpy as np

from danet_jax.data.builders.label_files import LabelFiles, Palettes, class_colours
from danet_jax.data.decode import encode_label
from danet_jax.data.labels import LabelMapping, bit_colours
from danet_jax.errors import InputError, one_line

[VOC_VOID] = bit_colours((255,))
"""The colour of what PASCAL VOC ignores."""


def mapped_png(mapping: LabelMapping, files: LabelFiles, data: bytes, name: str) -> bytes:
    """Return a PNG of train ids from a PNG of the publisher's ids."""
    return encode_label(mapping.to_train_ids(files.read(data, name).values, name))


def same_png(files: LabelFiles, data: bytes, name: str) -> bytes:
    """Return a PNG of train ids from a PNG of train ids: `data`, unless a program has renumbered it."""
    read = files.read(data, name)
    return data if read.as_stored else encode_label(read.values)


def grey_labels(train_ids: Collection[int], palettes: Palettes) -> LabelFiles:
    """Return what reads grey PNGs of train ids."""
    return LabelFiles(train_ids, always_by_colour=True, palettes=palettes)


def published_labels(
    mapping: LabelMapping, palettes: Palettes | None = None, *, in_colours: bool = False
) -> LabelFiles:
    """Return what reads a publisher's PNGs, which are grey, or have a palette of the classes' colours."""
    colours = class_colours(mapping.classes, ignored=(VOC_VOID,)) if in_colours else {}
    return LabelFiles({*mapping.ids, *mapping.others}, colours, always_by_colour=True, palettes=palettes)


def mapped_mat(mapping: LabelMapping, path: Sequence[str], data: bytes, name: str) -> bytes:
    """Return a PNG of train ids from a MATLAB file of the publisher's ids.

    Args:
      mapping: From the ids to train ids.
      path: The variable that holds the label map, followed by the fields below it if it is a struct.
      data: The file.
      name: Its name, for error messages.

    Raises:
      InputError: The file is damaged or holds something else.
    """
    import scipy.io

    try:
        value = scipy.io.loadmat(io.BytesIO(data), variable_names=[path[0]])[path[0]]
        for field in path[1:]:
            value = value[field][0, 0]
    except Exception as error:  # scipy raises nearly anything on damaged files
        reason = f"no {'.'.join(path)}" if isinstance(error, (KeyError, IndexError)) else str(error)
        raise InputError(
            f"{name}: cannot be read as this dataset's .mat ({one_line(reason)}); download it again"
        ) from None
    value = np.asarray(value)
    if value.dtype.kind == "f":  # MATLAB's default
        value = value.astype(np.int64)
    if value.ndim != 2 or value.dtype.kind not in "ui":
        raise InputError(f"{name}: {'.'.join(path)} is {value.dtype} of shape {value.shape}, not a label map")
    return encode_label(mapping.to_train_ids(value, name))
