"""Decodes images and labels of prepared data, but only as many rows as are needed.

The files were checked during preparation. A crop needs the rows of an image down to the last row of the crop, and PNG
and JPEG are decoded from the top. Pillow's PNG decoder accepts the compressed rows alone and stops after the requested
number of rows; its JPEG decoder stops at the height that the file declares.
"""

from __future__ import annotations

import contextlib
import struct

import cv2
import numpy as np
from PIL import Image

from danet_jax.data.decode import (
    BMP,
    JPEG,
    JPEG_SCAN,
    PNG,
    decode_image,
    decode_label,
    jpeg_segments,
    png_chunks,
    to_depth,
)
from danet_jax.errors import InputError

_ALL_ROWS = 2**31 - 1


def first_image_rows(
    data: bytes, name: str, rows: int = _ALL_ROWS, *, bits: int = 16, depth: int = 8
) -> np.ndarray:
    """Returns at least the first `rows` rows of the result of `decode.decode_image`; further rows are undefined."""
    pixels = _png_rows(data, name, rows, "RGB")
    if pixels is None and data.startswith(BMP):
        with contextlib.suppress(cv2.error):  # OpenCV is twice as fast as Pillow.
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if pixels is None:
        return decode_image(_jpeg_rows(data, rows), name, bits=bits, depth=depth, trusted=True)
    return to_depth(pixels, depth)


def first_label_rows(data: bytes, name: str, rows: int = _ALL_ROWS) -> np.ndarray:
    """Returns at least the first `rows` rows of the result of `decode.decode_label`, uint8 `[h, W]`."""
    label = _png_rows(data, name, rows, "L")
    return decode_label(data, name) if label is None else label


def _jpeg_rows(data: bytes, rows: int) -> bytes:
    """Returns a sequential JPEG with its height reduced if one scan contains all channels; any other file unchanged."""
    if not data.startswith(JPEG):
        return data
    frame, channels = 0, b""
    for marker, start, _ in jpeg_segments(data):
        if marker in (0xC0, 0xC1):
            frame, channels = start + 1, data[start + 5 : start + 6]
        elif marker == JPEG_SCAN:
            height = int.from_bytes(data[frame : frame + 2], "big")
            if not frame or not height or data[start : start + 1] != channels:
                return data
            # Chroma upsampling blends colours across the edges of blocks of 32 rows.
            height = min(height, -(-rows // 32) * 32 + 32)
            return data[:frame] + struct.pack(">H", height) + data[frame + 2 :]
    return data


def _png_rows(data: bytes, name: str, rows: int, mode: str) -> np.ndarray | None:
    """Returns the first rows of a non-interlaced PNG of 8-bit grey ("L") or "RGB"; None for any other file."""
    # The bytes are bit depth, colour type, compression, filter and interlacing.
    kind = bytes([8, {"L": 0, "RGB": 2}[mode], 0, 0, 0])
    if not data.startswith(PNG) or data[24:29] != kind:
        return None
    width, height = struct.unpack_from(">II", data, 16)
    chunks = list(png_chunks(data))
    if any(kind == b"tRNS" for kind, _ in chunks):  # A transparent colour needs compositing.
        return None
    compressed = b"".join(chunk[8:-4] for kind, chunk in chunks if kind == b"IDAT")
    try:
        return np.array(Image.frombytes(mode, (width, min(rows, height)), compressed, "zip", mode, 0))
    except (ValueError, OverflowError) as error:
        raise InputError.for_file(name, f"damaged ({error}); prepare the data again") from None
