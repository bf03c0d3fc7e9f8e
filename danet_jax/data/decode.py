"""From encoded pictures to arrays, strictly: what cannot be read exactly is refused by name.

Pillow decodes everything but 16-bit colours: unlike OpenCV, it refuses a truncated file instead of filling the rest
with grey.

A picture is meant as its EXIF says it is to be shown: `upright` turns it. Prepared data hold it so already, since a
label has to be turned with it (see `danet_jax.data.builders.pair`).
"""

from __future__ import annotations

import contextlib
import io
import logging
import struct
import warnings
from collections.abc import Iterator

import cv2
import numpy as np
from PIL import Image, TiffImagePlugin

from danet_jax.errors import InputError, one_line

_BIT_DEPTH, _COLOUR_TYPE = 24, 25  # offsets in a PNG file, inside its first chunk
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_BMP = b"BM"
_SCAN, _END = 0xDA, b"\xff\xd9"  # markers of JPEG
_SMALLEST_RANGE = 2**14
"""Sixteen-bit pictures that stay below are taken for 10, 12 or 14 bits: their upper 8 bits hold 64 levels or fewer."""
_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow knows others, some of which start programs (EPS) or hold pictures of several sizes (ICO)."""

_UNREADABLE = (OSError, SyntaxError, ValueError)

_BITS_PER_SAMPLE, _EXTRA_SAMPLES = 258, 338  # tags of TIFF

# What Pillow cannot decode, it also prints; the error says it.
logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)

_ORIENTATION = 0x0112  # EXIF's tag: where the first row and the first column of the stored picture belong
TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_image(data: bytes, name: str, *, upright: bool = False, bits: int = 16) -> np.ndarray:
    """Decode a picture to uint8 `[H, W, 3]`; see `decode_picture`."""
    return np.array(decode_picture(data, name, upright=upright, bits=bits))


def decode_picture(data: bytes, name: str, *, upright: bool = False, bits: int = 16) -> Image.Image:
    """Decode a JPEG or PNG (or anything else that Pillow reads) to RGB.

    Grey and palette pictures become RGB, an alpha channel is dropped (colours under transparent pixels
    stay as stored), of 16-bit channels the upper 8 bits are kept, of an animation the first frame.

    Args:
      data: The encoded file.
      name: The file's name, for the error message.
      upright: Turn the picture as its EXIF says it is to be shown; cameras store it as the sensor lay.
      bits: How many bits of 16-bit channels are used: 12 for values up to 4095, of which the upper 8 bits are
        then 4095 >> 4.

    Raises:
      InputError: The file is no picture, is damaged or cut short, has 32-bit pixels, more channels than RGB and
        alpha, colours that are multiplied by alpha, or 16-bit channels whose range is hardly used.
    """
    picture = _load(data, name)
    if picture.mode in ("RGBa", "La") or _tiff_tag(picture, _EXTRA_SAMPLES)[:1] == (1,):
        raise InputError(f"{name}: its colours are multiplied by their alpha; save it as RGB without alpha")
    deep = _sixteen_bits(picture, data, name)
    if deep is not None:
        picture = Image.fromarray(_upper_bits(deep, bits, name))
    elif picture.mode in ("I", "F"):
        raise InputError(f"{name}: a picture with 32-bit pixels; save it as 8-bit RGB")
    picture.info.pop("transparency", None)  # of a palette; Pillow would advise to keep it
    if upright:
        turn = TO_UPRIGHT.get(orientation(data))
        picture = picture if turn is None else picture.transpose(turn)
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def orientation(data: bytes) -> int:
    """Return the EXIF orientation of an encoded picture, 1 to 8; 1, upright as stored, if it has none to be read.

    Of a TIFF it is always 1: Pillow turns those by itself.
    """
    if not any(mark in data for mark in (b"Exif", b"eXIf", b"exif", b"EXIF")):
        return 1
    try:
        with Image.open(io.BytesIO(data)) as picture:
            found = 1 if picture.format == "TIFF" else picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow raises whatever a damaged EXIF leads it to
        return 1
    return found if found in TO_UPRIGHT else 1


def _sixteen_bits(picture: Image.Image, data: bytes, name: str) -> np.ndarray | None:
    """The channels of a 16-bit picture, uint16 `[H, W]` or `[H, W, 3]`; None of any other."""
    if picture.mode.startswith("I;16"):
        return np.asarray(picture).astype(np.uint16)
    deep_png = data.startswith(_PNG) and data[_BIT_DEPTH] == 16
    if deep_png or 16 in _tiff_tag(
        picture, _BITS_PER_SAMPLE
    ):  # of colours Pillow keeps only the upper 8 bits
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is None or pixels.dtype != np.uint16:
            raise InputError(f"{name}: a 16-bit picture that cannot be read; save it with 8 bits")
        return pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels[..., 2::-1])
    return None


def _tiff_tag(picture: Image.Image, tag: int) -> tuple[int, ...]:
    """The value of a tag if the picture is a TIFF that has it, else nothing."""
    value = picture.tag_v2.get(tag, ()) if isinstance(picture, TiffImagePlugin.TiffImageFile) else ()
    return value if isinstance(value, tuple) else (value,)


def _upper_bits(pixels: np.ndarray, bits: int, name: str) -> np.ndarray:
    largest = int(pixels.max(initial=0))
    if bits == 16 and 0 < largest < _SMALLEST_RANGE:
        raise InputError(
            f"{name}: of 16 bits only values up to {largest} are used, of which {(largest >> 8) + 1} grey levels would "
            "be left; save it with 8 bits, or, in your own data, set dataset.options.bits to the bits that are used, "
            f"such as {max(8, largest.bit_length() + largest.bit_length() % 2)}"
        )
    if largest >> bits:
        raise InputError(f"{name}: holds the value {largest}, which has more than {bits} bits")
    return (pixels >> (bits - 8)).astype(np.uint8)


def decode_label(data: bytes, name: str) -> np.ndarray:
    """Decode a label map: an 8-bit single-channel picture, or a palette one whose indices are the labels.

    Args:
      data: The encoded file, a PNG, or the BMP of a preparation without compression.
      name: The file's name, for the error message.

    Returns:
      uint8 `[H, W]`, the values exactly as stored.

    Raises:
      InputError: The file is no PNG, is damaged or cut short, or is a colour or 16-bit picture.
    """
    if data.startswith(_BMP):
        picture = _load(data, name)
        if picture.mode == "L":
            return np.array(picture)
    return stored_label(load_label(data, name), data, name)


def load_label(data: bytes, name: str) -> Image.Image:
    """Decode a PNG, of whatever kind.

    Raises:
      InputError: The file is no PNG, or is damaged or cut short.
    """
    picture = _load(data, name)
    if picture.format != "PNG":
        raise InputError(f"{name}: labels must be PNG, which keeps their values, not {picture.format}")
    if getattr(picture, "n_frames", 1) > 1:
        raise InputError(f"{name}: has several frames; save the one that is meant")
    return picture


def stored_label(picture: Image.Image, data: bytes, name: str) -> np.ndarray:
    """Return the values of a PNG, `data`, that `load_label` decoded, as `decode_label` does."""
    if picture.mode not in ("1", "L", "P"):
        kind = "16-bit" if picture.mode.startswith("I") else f"{picture.mode} colour"
        raise InputError(
            f"{name}: a {kind} picture; labels must be 8-bit single-channel or palette PNG of class ids"
        )
    label = np.array(picture, np.uint8)
    if picture.mode == "L" and data[_COLOUR_TYPE] == 0 and data[_BIT_DEPTH] < 8:
        # Pillow stretches 2- and 4-bit grey to 0..255, which is right for pictures and wrong for labels.
        label //= 255 // ((1 << data[_BIT_DEPTH]) - 1)
    return label


def bit_depth(data: bytes) -> int:
    """Return the bits of each channel of a PNG."""
    return data[_BIT_DEPTH]


def palette(data: bytes) -> list[tuple[int, int, int]]:
    """Return the colours of a whole palette PNG, as many as are stored."""
    for kind, content in chunks(data):
        if kind == b"PLTE":
            return [(content[i], content[i + 1], content[i + 2]) for i in range(0, len(content) - 2, 3)]
    return []


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and content of each part of a PNG."""
    start = len(_PNG)
    while start + 8 <= len(data):
        (size,) = struct.unpack_from(">I", data, start)
        yield data[start + 4 : start + 8], data[start + 8 : start + 8 + size]
        start += size + 12


def is_plain_label(data: bytes) -> bool:
    """Whether a PNG is 8-bit grey, which every reader reads alike."""
    return len(data) > _COLOUR_TYPE and (data[_BIT_DEPTH], data[_COLOUR_TYPE]) == (8, 0)


def has_sixteen_bits(data: bytes, name: str) -> bool:
    """Whether a picture has 16-bit channels; raises InputError as `decode_image` does if it is damaged."""
    return _sixteen_bits(_load(data, name), data, name) is not None


def frames_of(data: bytes, name: str) -> int:
    """Return how many frames, or pages, a picture has; raises InputError as `decode_image` does if it is damaged."""
    picture = opened(data, name)
    with _naming(data, name):
        return int(getattr(picture, "n_frames", 1))


def encode_image(image: np.ndarray) -> bytes:
    """Encode an image, uint8 `[H, W, 3]`, as PNG; `decode_image` returns it exactly."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def encode_uncompressed(pixels: np.ndarray) -> bytes:
    """Encode an image, uint8 `[H, W, 3]`, or a label map, uint8 `[H, W]`, as BMP: large, and read in no time."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "BMP")
    return file.getvalue()


def encode_label(label: np.ndarray) -> bytes:
    """Encode a label map, uint8 `[H, W]`, as PNG; `decode_label` returns it exactly."""
    file = io.BytesIO()
    Image.fromarray(label).save(file, "PNG")
    return file.getvalue()


def _load(data: bytes, name: str) -> Image.Image:
    picture = opened(data, name)
    with _naming(data, name):
        picture.load()
    if not _has_end(data):
        raise InputError(
            f"{name}: damaged: it has no end, as if the rest was never written; replace or remove it"
        )
    return picture


def _has_end(data: bytes) -> bool:
    """False of a JPEG whose rest is zeros, as a crash leaves it: Pillow decodes them as grey."""
    start = 2
    while data.startswith(_JPEG) and start + 4 <= len(data):
        marker, size = data[start + 1], int.from_bytes(data[start + 2 : start + 4], "big")
        if marker == _SCAN:  # in what follows, an end is none by chance
            return data.find(_END, start + size) >= 0
        start += 1 if marker == 0xFF else 2 + size  # markers may be filled up
    return True


def opened(data: bytes, name: str) -> Image.Image:
    """Open a picture without decoding it.

    Raises:
      InputError: The file is no picture, or too large.
    """
    with _naming(data, name), warnings.catch_warnings():
        # A large picture is no attack here, and what is too large is said below.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        Image.init()  # formats that are named must be known; done once
        return Image.open(io.BytesIO(data), formats=_FORMATS)


@contextlib.contextmanager
def _naming(data: bytes, name: str) -> Iterator[None]:
    """Name the file in what Pillow raises."""
    try:
        yield
    except Image.UnidentifiedImageError:
        reason = "the file is empty" if not data else "not a picture that can be read"
        raise InputError(f"{name}: {reason}; replace or remove it") from None
    except Image.DecompressionBombError:
        raise InputError(f"{name}: too many pixels for Pillow; scale it down or cut it into pieces") from None
    except _UNREADABLE as error:
        raise InputError(f"{name}: damaged or cut short ({one_line(error)}); replace or remove it") from None
