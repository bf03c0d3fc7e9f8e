"""Pictures of prepared data, decoded only as far as they are needed: they were checked when they were prepared.

A crop needs the rows of a picture down to its own last one, and a PNG is decoded from its first row on. Pillow's
decoder takes the compressed rows alone, and stops after as many as it is asked for.
"""

from __future__ import annotations

import struct

import cv2
import numpy as np
from PIL import Image

from danet_jax.data import decode
from danet_jax.errors import InputError

_HEADER = struct.Struct(">8sI4sIIBBBBB")
_START = b"\x89PNG\r\n\x1a\n", 13, b"IHDR"
_GREY, _COLOURS = 0, 2


class PreparedImage:
    """An image that can be decoded in part.

    Args:
      data: The encoded picture.
      name: Its name, for error messages.

    Attributes:
      size: Height and width.

    Raises:
      InputError: It is damaged.
    """

    def __init__(self, data: bytes, name: str):
        self._data, self._name = data, name
        header = _png_header(data)
        self._whole: Image.Image | None = None
        if header is None:
            self._whole = _whole(data, name)
            width, height = self._whole.size
        else:
            width, height = header[:2]
        self.size = height, width

    def first_rows(self, rows: int) -> Image.Image:
        """Return at least so many rows, RGB, with the pixels of `decode.decode_image`.

        Raises:
          InputError: It is damaged.
        """
        if self._whole is not None:
            return self._whole
        picture = _rows_of_png(self._data, self._name, rows, _COLOURS)
        return decode.decode_picture(self._data, self._name) if picture is None else picture


def _whole(data: bytes, name: str) -> Image.Image:
    if data.startswith(b"BM"):  # which OpenCV reads in half of the time
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if pixels is not None:
            return Image.fromarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
    return decode.decode_picture(data, name)


def first_label_rows(data: bytes, name: str, rows: int) -> np.ndarray:
    """Return at least the first `rows` rows of a label map, as `decode.decode_label` reads it, uint8 `[h, W]`.

    Raises:
      InputError: It is damaged.
    """
    picture = _rows_of_png(data, name, rows, _GREY)
    return decode.decode_label(data, name) if picture is None else np.asarray(picture)


def _rows_of_png(data: bytes, name: str, rows: int, kind: int) -> Image.Image | None:
    """The rows if it is a PNG of 8 bits of this kind of colours, not interlaced."""
    header = _png_header(data)
    if header is None or header[2:] != (8, kind, 0, 0, 0):
        return None
    size, mode = (header[0], min(rows, header[1])), {_GREY: "L", _COLOURS: "RGB"}[kind]
    compressed = b"".join(content for chunk, content in decode.chunks(data) if chunk == b"IDAT")
    try:
        return Image.frombytes(mode, size, compressed, "zip", mode, 0)
    except ValueError as error:
        raise InputError(f"{name}: damaged ({error}); prepare the data again") from None


def _png_header(data: bytes) -> tuple[int, ...] | None:
    """Width, height, bits, colour type, compression, filter and interlacing of a PNG."""
    if len(data) < _HEADER.size:
        return None
    header = _HEADER.unpack_from(data)
    return header[3:] if header[:3] == _START else None
