"""Encodes images as files, including PNGs that Pillow would not write."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image


def encode(image: np.ndarray | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """Encodes an array or a Pillow image with Pillow."""
    file = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(file, kind, **options)
    return file.getvalue()


def png(pixels, bits, colour_type, palette=(), transparent=b"", kept=None) -> bytes:
    """Returns a hand-made PNG with packed rows and no filters; `kept` is the number of rows with data."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    rows = pixels.astype(">u2" if bits == 16 else "u1").reshape(height, -1)
    if bits < 8:
        spread = np.unpackbits(rows[..., None], axis=2)[..., 8 - bits :]
        rows = np.packbits(spread.reshape(height, -1), axis=1)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows[:kept]))
    colours = np.asarray(palette, np.uint8).tobytes()
    chunks = [(b"IHDR", header), (b"PLTE", colours), (b"tRNS", transparent), (b"IDAT", data)]
    written = b"".join(chunk(kind, content) for kind, content in chunks if content)
    return b"\x89PNG\r\n\x1a\n" + written + chunk(b"IEND", b"")
