"""Images of prepared data, decoded only as far as they are needed: they were checked when they were prepared.

A crop needs an image's rows down to the crop's last one, and PNG and JPEG are decoded from the first row on.
Pillow's PNG decoder takes the compressed rows alone, and stops after as many as requested; its JPEG decoder stops
where the file says that the image ends.
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
      data: The encoded image.
      name: Its name, for error messages.
      bits: How many bits of 16-bit channels are used.
      depth: The bits of the result; at more than 8 the image is always decoded completely.

    Attributes:
      size: Height and width.

    Raises:
      InputError: It is damaged.
    """

    def __init__(self, data: bytes, name: str, bits: int = 16, depth: int = 8):
        self._data, self._name, self._bits = data, name, bits
        self._complete: Image.Image | np.ndarray | None = None
        self._frame = _jpeg_frame(data)
        if depth > 8:
            self._complete = decode.decode_image(data, name, bits=bits, depth=depth, trusted=True)
            height, width = self._complete.shape[:2]
        elif (header := _png_header(data)) is not None:
            width, height = header[:2]
        elif self._frame:
            height, width = struct.unpack_from(">HH", data, self._frame)
        else:
            self._complete = _complete(data, name, bits)
            width, height = self._complete.size
        self.size = height, width

    def first_rows(self, rows: int) -> Image.Image | np.ndarray:
        """Returns an RGB image whose first `rows` are those of `decode.decode_image`; what follows is undefined.

        It is an array, uint16 `[H, W, 3]`, for a depth of more than 8 bits.

        Raises:
          InputError: It is damaged.
        """
        if self._complete is not None:
            return self._complete
        if self._frame:
            return decode.decode_picture(_cut(self._data, self._frame, rows), self._name, trusted=True)
        picture = _rows_of_png(self._data, self._name, rows, _COLOURS)
        if picture is None:
            return decode.decode_picture(self._data, self._name, bits=self._bits, trusted=True)
        return picture


def _jpeg_frame(data: bytes) -> int:
    """The offset of the height in a JPEG that is coded from top to bottom, in one pass; 0 for any other file."""
    if not data.startswith(b"\xff\xd8"):
        return 0
    place, frame, channels = 2, 0, 0
    while place + 10 < len(data) and data[place] == 0xFF:
        marker, (size,) = data[place + 1], struct.unpack_from(">H", data, place + 2)
        if marker == 0xFF:  # padding, which is allowed, and rare
            return 0
        if marker in (0xC0, 0xC1):
            frame, channels = place + 5, data[place + 9]
        elif marker == 0xDA:  # its first pass begins
            return frame if frame and data[place + 4] == channels and any(data[frame : frame + 2]) else 0
        place += 2 + size
    return 0


def _cut(data: bytes, frame: int, rows: int) -> bytes:
    """The JPEG, its height reduced to `rows` and some: colours are blended over the edges of blocks of 32 rows."""
    (height,) = struct.unpack_from(">H", data, frame)
    height = min(height, -(-rows // 32) * 32 + 32)
    return data[:frame] + struct.pack(">H", height) + data[frame + 2 :]


def _complete(data: bytes, name: str, bits: int) -> Image.Image:
    if data.startswith(b"BM"):  # which OpenCV reads in half of the time
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if pixels is not None:
            return Image.fromarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
    return decode.decode_picture(data, name, bits=bits, trusted=True)


def first_label_rows(data: bytes, name: str, rows: int) -> np.ndarray:
    """Returns at least the first `rows` rows of a label map, as `decode.decode_label` reads it, uint8 `[h, W]`.

    Raises:
      InputError: It is damaged.
    """
    picture = _rows_of_png(data, name, rows, _GREY)
    return decode.decode_label(data, name) if picture is None else np.asarray(picture)


def _rows_of_png(data: bytes, name: str, rows: int, colours: int) -> Image.Image | None:
    """The rows if it is a PNG of 8 bits with this colour type, not interlaced; else None."""
    header = _png_header(data)
    if header is None or header[2:] != (8, colours, 0, 0, 0):
        return None
    size, mode = (header[0], min(rows, header[1])), {_GREY: "L", _COLOURS: "RGB"}[colours]
    chunks = list(decode.chunks(data))
    if any(kind == b"tRNS" for kind, _ in chunks):  # a colour is transparent
        return None
    compressed = b"".join(content for kind, content in chunks if kind == b"IDAT")
    try:
        return Image.frombytes(mode, size, compressed, "zip", mode, 0)
    except ValueError as error:
        raise InputError(f"{name}: damaged ({error}); prepare the data again", what=name) from None


def _png_header(data: bytes) -> tuple[int, ...] | None:
    """Width, height, bits, colour type, compression, filter and interlacing of a PNG."""
    if len(data) < _HEADER.size:
        return None
    header = _HEADER.unpack_from(data)
    return header[3:] if header[:3] == _START else None
