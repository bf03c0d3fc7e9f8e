"""From encoded pictures to arrays, strictly: what cannot be read exactly is refused by name.

Pillow decodes everything: it is as fast as OpenCV here (1024x2048 PNG: both about 48 ms) and, unlike
OpenCV, it refuses a truncated file instead of filling the rest with grey.

An orientation written in a JPEG's EXIF is applied only if asked for: labels are drawn on the pixels as stored.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from danet_jax.errors import InputError

_BIT_DEPTH, _COLOUR_TYPE = 24, 25  # offsets in a PNG file, inside its first chunk
_UNREADABLE = (OSError, SyntaxError, ValueError)

_ORIENTATION = 0x0112  # EXIF's tag: where the first row and the first column of the stored picture belong
_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_image(data: bytes, name: str, *, upright: bool = False) -> np.ndarray:
    """Decode a JPEG or PNG (or anything else that Pillow reads) to RGB.

    Grey and palette pictures become RGB, an alpha channel is dropped (colours under transparent pixels
    stay as stored), of 16-bit channels the upper 8 bits are kept, of an animation the first frame.

    Args:
      data: The encoded file.
      name: The file's name, for the error message.
      upright: Turn the picture as its EXIF says it is to be shown; cameras store it as the sensor lay.

    Returns:
      uint8 `[H, W, 3]`.

    Raises:
      InputError: The file is no picture, is damaged or cut short, or has 32-bit pixels.
    """
    picture = _load(data, name)
    if upright:
        picture = _upright(picture)
    if picture.mode in ("I", "F"):
        raise InputError(f"{name}: a picture with 32-bit pixels; save it as 8-bit RGB")
    if picture.mode.startswith("I;16"):  # Pillow would clip the values at 255
        grey = (np.asarray(picture) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    return np.array(picture.convert("RGB"))


def decode_label(data: bytes, name: str) -> np.ndarray:
    """Decode a label map: an 8-bit single-channel picture, or a palette one whose indices are the labels.

    Args:
      data: The encoded file, a PNG.
      name: The file's name, for the error message.

    Returns:
      uint8 `[H, W]`, the values exactly as stored.

    Raises:
      InputError: The file is no PNG, is damaged or cut short, or is a colour or 16-bit picture.
    """
    picture = _load(data, name)
    if picture.format != "PNG":
        raise InputError(f"{name}: labels must be PNG, which keeps their values, not {picture.format}")
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


def encode_label(label: np.ndarray) -> bytes:
    """Encode a label map, uint8 `[H, W]`, as PNG; `decode_label` returns it exactly."""
    file = io.BytesIO()
    Image.fromarray(label).save(file, "PNG")
    return file.getvalue()


def plain_label(data: bytes, name: str) -> bytes:
    """Return a label map as 8-bit single-channel PNG, which every reader reads alike; `data` if it is one.

    Raises:
      InputError: As `decode_label` does.
    """
    plain = len(data) > _COLOUR_TYPE and (data[_BIT_DEPTH], data[_COLOUR_TYPE]) == (8, 0)
    return data if plain else encode_label(decode_label(data, name))


def _upright(picture: Image.Image) -> Image.Image:
    """The picture turned as its EXIF says; as stored if that cannot be read, which spoils no pixel."""
    try:
        turn = _TO_UPRIGHT.get(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # Pillow raises whatever a damaged EXIF leads it to
        turn = None
    return picture if turn is None else picture.transpose(turn)


def _load(data: bytes, name: str) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(data))
        picture.load()
    except Image.UnidentifiedImageError:
        reason = "the file is empty" if not data else "not a picture that can be read"
        raise InputError(f"{name}: {reason}; replace or remove it") from None
    except Image.DecompressionBombError:
        raise InputError(f"{name}: too many pixels for Pillow; scale it down or cut it into pieces") from None
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{name}: damaged or cut short ({reason}); replace or remove it") from None
    return picture
