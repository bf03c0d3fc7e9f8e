"""Publishers' label files, PNG or MATLAB's, to PNG of train ids."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from danet_jax.data import decode
from danet_jax.data.labels.mapping import LabelMapping
from danet_jax.errors import InputError


def mapped_png(mapping: LabelMapping, data: bytes, name: str) -> bytes:
    """Return a PNG of train ids from a PNG of the publisher's ids."""
    return encode_label(mapping.to_train_ids(decode.decode_label(data, name), name))


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
            f"{name}: cannot be read as this dataset's .mat ({' '.join(reason.split())}); download it again"
        ) from None
    value = np.asarray(value)
    if value.dtype.kind == "f":  # MATLAB's default
        value = value.astype(np.int64)
    if value.ndim != 2 or value.dtype.kind not in "ui":
        raise InputError(f"{name}: {'.'.join(path)} is {value.dtype} of shape {value.shape}, not a label map")
    return encode_label(mapping.to_train_ids(value, name))


def encode_label(label: np.ndarray) -> bytes:
    """Return an 8-bit PNG of a label map uint8 `[H, W]`."""
    file = io.BytesIO()
    Image.fromarray(label).save(file, "png")
    return file.getvalue()
