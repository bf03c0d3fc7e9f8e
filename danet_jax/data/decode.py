"""Decodes images and label maps to arrays, strictly: a file that cannot be decoded exactly is refused by name.

PNG is decoded by imagecodecs, TIFF by tifffile and everything else by Pillow. Transparent images are composed over
white. Images are meant to be shown as their EXIF orientation (or TIFF's Orientation) says: `upright` turns them.
Prepared data are upright already, since a label has to be turned with its image (see `danet_jax.data.builders.pair`).

Pixels have the depth that a network takes: uint8, or uint16 from 0 to `2**depth - 1`. Either stands for 0 to 1.
"""

from __future__ import annotations

import contextlib
import io
import re
import struct
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import Image

from danet_jax.data.tiff import (
    TiffPixels,
    decode_tiff,
    is_tiff,
    tiff_bits,
    tiff_orientation,
    tiff_remarks,
)
from danet_jax.errors import InputError, one_line

_BIT_DEPTH, _COLOUR_TYPE = 24, 25  # offsets in a PNG file, inside its first chunk
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_BMP = b"BM"
_SCAN, _PROGRESSIVE, _END = 0xDA, 0xC2, 0xD9  # markers of JPEG
_BEHIND_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # a marker that is no part of a scan
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_FILLER = bytes(range(37, 250, 3)) * 2
SMALLEST_RANGE = 2**14
"""16-bit images that stay below are taken for 10, 12 or 14 bits: their upper 8 bits hold 64 levels or fewer."""
_FEW_LEVELS = 32
_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "WEBP")
"""Pillow knows others, some of which start programs (EPS) or hold images of several sizes (ICO)."""
_READABLE = "JPEG, PNG, TIFF, WebP or BMP"
_OTHER_FORMATS = (
    (4, rb"ftyp(hei|hev|mif1|msf1)", "HEIC"),
    (4, rb"ftypavi[fs]", "AVIF"),
    (4, rb"ftyp", "an MP4 or QuickTime video"),
    (0, rb"\0\0\0\x0cJXL |\xff\x0a", "JPEG XL"),
    (0, rb"8BPS", "Photoshop"),
    (0, rb"%!PS|\xc5\xd0\xd3\xc6", "EPS"),
    (0, rb"%PDF", "PDF"),
    (0, rb"v/1\x01", "OpenEXR"),
    (0, rb"#\?RADIANCE|#\?RGBE", "Radiance HDR"),
    (0, rb"\s*(<\?xml[^>]*>\s*)?<svg", "SVG"),
    (0, rb"\s*<(!DOCTYPE )?html", "an HTML page"),
    (0, rb"\0\0[\x01\x02]\0", "an icon"),
    (0, rb"PK\x03\x04", "a zip archive"),
    (0, rb"\x93NUMPY", "a NumPy array"),
)
"""Offset, pattern and name of formats that people have and that are not read."""

_UNREADABLE = (OSError, SyntaxError, ValueError)

_ORIENTATION = 0x0112  # EXIF's tag: where the first row and the first column of the stored image belong
TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_image(
    data: bytes, name: str, *, upright: bool = False, bits: int = 16, depth: int = 8, trusted: bool = False
) -> np.ndarray:
    """Decodes an image to `[H, W, 3]`: uint8, or uint16 from 0 to `2**depth - 1` for a depth of more than 8 bits.

    Args:
      data: see `decode_picture`, as all other arguments.
      name: the file's name, for error messages.
      upright: turn the image as its EXIF or TIFF orientation says.
      bits: how many bits of 16-bit channels are used.
      depth: the bits of the result. At more than 8, a 16-bit image of any brightness is accepted, and nothing is lost
        where `depth` equals `bits`.
      trusted: the file was decoded without an error before.

    Raises:
      InputError: see `decode_picture`.
    """
    if depth == 8:
        return np.array(decode_picture(data, name, upright=upright, bits=bits, trusted=trusted))
    decoded = _decoded(data, name, trusted=trusted)
    if isinstance(decoded, Image.Image):
        pixels = deepened(np.asarray(decoded.convert("RGB")), depth)
    else:
        pixels = _composed_deep(decoded, bits, depth, name)
    turn = TO_UPRIGHT.get(orientation(data)) if upright else None
    return pixels if turn is None else turned(pixels, turn)


def decode_picture(
    data: bytes, name: str, *, upright: bool = False, bits: int = 16, trusted: bool = False
) -> Image.Image:
    """Decodes a JPEG, PNG, TIFF or any other format that Pillow reads to RGB.

    Grey and palette images become RGB; transparent pixels are composed over white; 16-bit channels keep their upper 8
    bits; of an animation the first frame is decoded, of a TIFF the first page that is not a thumbnail.

    Args:
      data: the encoded file.
      name: the file's name, for error messages.
      upright: turn the image as its EXIF or TIFF orientation says; cameras store it as the sensor lay.
      bits: how many bits of 16-bit channels are used: 12 for values up to 4095, of which the upper 8 bits are then
        4095 >> 4.
      trusted: the file was decoded without an error before; a JPEG is then not checked for missing parts, which takes
        as long as decoding it, and 16-bit channels may use any part of their range.

    Raises:
      InputError: the file is not an image, is damaged or cut short, has signed, floating-point or 32-bit pixels or more
        bands than RGB and alpha, or uses hardly any of the range of its 16 bits.
    """
    decoded = _decoded(data, name, trusted=trusted)
    picture = decoded if isinstance(decoded, Image.Image) else _composed(decoded, bits, name, trusted)
    if upright:
        turn = TO_UPRIGHT.get(orientation(data))
        picture = picture if turn is None else picture.transpose(turn)
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _decoded(data: bytes, name: str, *, trusted: bool) -> Image.Image | TiffPixels:
    """Returns an 8-bit image of Pillow's without transparency, or colours of any depth with or without alpha."""
    if is_tiff(data):
        return decode_tiff(data, name)
    if data.startswith(_PNG):
        pixels = _decode_png(data, name)
        alpha = pixels[..., -1] if pixels.ndim == 3 and pixels.shape[2] in (2, 4) else None
        return TiffPixels(pixels if alpha is None else pixels[..., :-1], 8 * pixels.itemsize, alpha)
    picture = _load(data, name)
    if data.startswith(_JPEG) and not trusted:
        _refuse_cut_jpeg(data, picture, name)
    if picture.mode.startswith("I;16"):
        return TiffPixels(np.asarray(picture).astype(np.uint16), 16)
    if picture.mode in ("I", "F"):
        raise InputError(f"{name}: an image with 32-bit pixels; save it as 8-bit RGB", what=name)
    if picture.has_transparency_data:
        rgba = np.asarray(picture.convert("RGBA"))
        return TiffPixels(rgba[..., :3], 8, rgba[..., 3])
    return picture


def deepened(pixels: np.ndarray, depth: int) -> np.ndarray:
    """Returns uint8 pixels as uint16 from 0 to `2**depth - 1`; a depth of 8 leaves them as they are."""
    if depth == 8:
        return pixels
    return ((pixels.astype(np.uint32) * (2**depth - 1) + 127) // 255).astype(np.uint16)


def shown(pixels: np.ndarray, depth: int) -> np.ndarray:
    """Returns pixels of this depth as people look at them, uint8."""
    return pixels if depth == 8 else (pixels >> (depth - 8)).astype(np.uint8)


def turned(pixels: np.ndarray, turn: Image.Transpose) -> np.ndarray:
    """Returns pixels `[H, W, ...]` of any type, turned as `PIL.Image.Image.transpose` does."""
    index = np.arange(pixels.shape[0] * pixels.shape[1], dtype=np.int32).reshape(pixels.shape[:2])
    moved = np.asarray(Image.fromarray(index).transpose(turn))
    return pixels.reshape(-1, *pixels.shape[2:])[moved]


def orientation(data: bytes) -> int:
    """Returns the EXIF or TIFF orientation of an encoded image, 1 to 8; 1 (upright) if it has none to be read."""
    if is_tiff(data):
        return tiff_orientation(data)
    if not any(mark in data for mark in (b"Exif", b"eXIf", b"exif", b"EXIF")):
        return 1
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            found = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow raises anything on a damaged EXIF
        return 1
    return found if found in TO_UPRIGHT else 1


def remarks(data: bytes, name: str, bits: int = 16) -> tuple[str, ...]:
    """Returns what of an image `decode_image` leaves out or nearly loses, each as the rest of "it has ...".

    Raises:
      InputError: the file is not an image, or is damaged.
    """
    if is_tiff(data):
        several, further_band = tiff_remarks(data, name)
    else:
        picture = opened(data, name)
        with _naming(data, name):
            several, further_band = int(getattr(picture, "n_frames", 1)) > 1, False
    found = []
    if several:
        found.append("several frames or pages, of which the first is used")
    if further_band:
        found.append("a fourth band of unknown meaning, which is left out")
    if is_deep(data, name):
        pixels = decode_image(data, name, bits=bits, depth=bits)
        if int(pixels.max()) - int(pixels.min()) < (_FEW_LEVELS - 1) * 2 ** (bits - 8):
            found.append(f"little contrast: fewer than {_FEW_LEVELS} of the 256 grey levels of 8 bits")
    return tuple(found)


def _decode_png(data: bytes, name: str) -> np.ndarray:
    """Decodes any PNG to uint8 or uint16 `[H, W]` or `[H, W, 2 to 4]`; palettes and transparent colours are applied."""
    import imagecodecs

    opened(data, name)  # names what is no image at all, or too large
    try:
        return np.asarray(imagecodecs.png_decode(_essential(data)))
    except Exception as error:
        raise _damaged(name, one_line(error)) from None


def _essential(data: bytes) -> bytes:
    """Returns a PNG without the chunks that do not change its pixels, about which libpng prints warnings."""
    parts, start = [_PNG], len(_PNG)
    while start + 8 <= len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        if data[start + 4 : start + 5].isupper() or data[start + 4 : start + 8] == b"tRNS":
            parts.append(data[start:end])
        start = end
    return b"".join(parts)


def _composed(decoded: TiffPixels, bits: int, name: str, trusted: bool) -> Image.Image:
    """Returns grey or RGB of any depth as 8-bit grey or RGB, composed over white."""
    colours, depth, alpha, premultiplied = decoded
    if colours.dtype != np.uint8:
        if alpha is not None:
            alpha = (alpha >> (_alpha_bits(decoded, bits) - 8)).astype(np.uint8)
        colours = _upper_bits(colours, bits, name, trusted) if depth == 16 else colours >> (depth - 8)
        colours = colours.astype(np.uint8)
    if colours.ndim == 3 and colours.shape[2] == 1:
        colours = colours[..., 0]
    if alpha is not None and alpha.min(initial=255) < 255:
        share = alpha.astype(np.uint16)
        share = share if colours.ndim == 2 else share[..., None]
        if premultiplied:
            colours = np.minimum(colours + (255 - share), 255).astype(np.uint8)
        else:
            colours = ((colours * share + 255 * (255 - share) + 127) // 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(colours))


def _composed_deep(decoded: TiffPixels, bits: int, depth: int, name: str) -> np.ndarray:
    """Returns grey or RGB of any depth as RGB of `depth` bits, uint16 `[H, W, 3]`, composed over white."""
    colours, stored, alpha, premultiplied = decoded
    if stored == 16:
        _refuse_beyond(colours, bits, name)
        stored = bits
    colours = colours if colours.ndim == 3 else colours[..., None]
    if alpha is None and stored == depth:
        pixels = colours
    else:
        levels = colours / (2**stored - 1)
        if alpha is not None:
            share = np.minimum(alpha[..., None] / (2 ** _alpha_bits(decoded, bits) - 1), 1)
            levels = np.minimum((levels if premultiplied else levels * share) + 1 - share, 1)
        pixels = np.round(levels * (2**depth - 1))
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)), np.uint16)


def _alpha_bits(decoded: TiffPixels, bits: int) -> int:
    """Returns the bits of alpha, which may have 12 bits in 16 as the colours have, or all 16."""
    assert decoded.alpha is not None
    return bits if decoded.bits == 16 and not int(decoded.alpha.max(initial=0)) >> bits else decoded.bits


def _upper_bits(pixels: np.ndarray, bits: int, name: str, trusted: bool) -> np.ndarray:
    largest = int(pixels.max(initial=0))
    if bits == 16 and 0 < largest < SMALLEST_RANGE and not trusted:
        raise InputError(
            f"{name}: of 16 bits only values up to {largest} are used, of which {(largest >> 8) + 1} grey levels would "
            "be left for a network that was trained on 8-bit images; save it with 8 bits",
            what=name,
            value=largest,
        )
    _refuse_beyond(pixels, bits, name)
    return pixels >> (bits - 8)


def _refuse_beyond(pixels: np.ndarray, bits: int, name: str) -> None:
    largest = int(pixels.max(initial=0))
    if largest >> bits:
        raise InputError(
            f"{name}: holds the value {largest}, which has more than {bits} bits", what=name, value=largest
        )


def _refuse_cut_jpeg(data: bytes, picture: Image.Image, name: str) -> None:
    """Refuses a JPEG with a scan that ends early, whose rest decoders fill with grey or leave blurred.

    Bytes behind the end of a scan that is complete are skipped; behind one that is not they are decoded. So the file is
    decoded a second time with further bytes there, unless it has one scan and its last pixel is not grey.
    """
    scans, progressive, _ = _scans(data)
    corner = picture.crop((picture.width - 1, picture.height - 1, *picture.size))
    grey = corner.getchannel("K") if picture.mode == "CMYK" else corner.convert("L")
    if not progressive and len(scans) == 1 and abs(int(np.asarray(grey)[0, 0]) - 128) > 3:
        return
    filled, written = b"", 0
    for first, end in scans:
        restart = (
            0xD0 + len(_RESTART.findall(data, first, end)) % 8
        )  # the next one that a decoder would expect
        filled, written = filled + data[written:end] + _FILLER + bytes([0xFF, restart]) + _FILLER, end
    with contextlib.suppress(InputError):
        if np.array_equal(np.asarray(_load(filled + data[written:], name)), np.asarray(picture)):
            return
    raise _damaged(name, "it ends early")


def _scans(data: bytes) -> tuple[list[tuple[int, int]], bool, bool]:
    """Returns where the scans of a JPEG begin and end, whether it is progressive, and whether the file has an end."""
    scans: list[tuple[int, int]] = []
    progressive, start = False, 2
    while start + 2 <= len(data):
        marker = data[start + 1]
        if data[start] != 0xFF or marker in (0, 0xFF):  # padding
            start += 1
            continue
        if marker == _END:
            return scans, progressive, True
        progressive |= marker == _PROGRESSIVE
        start += 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if marker == _SCAN:
            behind = _BEHIND_SCAN.search(data, start)
            if behind is None:
                break
            end = behind.start()
            while data[end - 1] == 0xFF:  # padding
                end -= 1
            scans.append((start, end))
            start = end
    return scans, progressive, False


def decode_label(data: bytes, name: str) -> np.ndarray:
    """Decodes a label map: an 8-bit single-channel PNG, or a palette PNG whose indices are the labels.

    Args:
      data: the encoded file, a PNG, or the BMP of a preparation without compression.
      name: the file's name, for the error message.

    Returns:
      uint8 `[H, W]`, the values exactly as stored.

    Raises:
      InputError: the file is not a PNG, is damaged or cut short, or is a colour or 16-bit image.
    """
    if data.startswith(_BMP):
        picture = _load(data, name)
        if picture.mode == "L":
            return np.array(picture)
    return stored_label(load_label(data, name), data, name)


def load_label(data: bytes, name: str) -> Image.Image:
    """Decodes a PNG of any kind.

    Raises:
      InputError: the file is not a PNG, has several frames, or is damaged or cut short.
    """
    picture_format = "TIFF" if is_tiff(data) else opened(data, name).format
    if picture_format != "PNG":
        raise InputError(
            f"{name}: labels must be PNG, which keeps their values, not {picture_format}",
            what=name,
            value=picture_format,
            allowed="PNG",
        )
    picture = _load(data, name)
    if getattr(picture, "n_frames", 1) > 1:
        raise InputError(f"{name}: has several frames; save the one that is meant", what=name)
    last_rows = np.asarray(picture.crop((0, max(0, picture.height - 2), *picture.size)))
    if not all(row.any() for row in last_rows):
        _decode_png(data, name)  # Pillow leaves rows 0 whose data are missing
    return picture


def stored_label(picture: Image.Image, data: bytes, name: str) -> np.ndarray:
    """Returns the values of a PNG, `data`, that `load_label` decoded, as `decode_label` does."""
    if picture.mode not in ("1", "L", "P"):
        kind = "16-bit" if picture.mode.startswith("I") else f"{picture.mode} colour"
        raise InputError(
            f"{name}: a {kind} picture; labels must be 8-bit single-channel or palette PNG of class ids",
            what=name,
            value=kind,
        )
    label = np.array(picture, np.uint8)
    if picture.mode == "L" and data[_COLOUR_TYPE] == 0 and data[_BIT_DEPTH] < 8:
        # Pillow stretches 2- and 4-bit grey to 0..255, which is right for images and wrong for labels.
        label //= 255 // ((1 << data[_BIT_DEPTH]) - 1)
    return label


def bit_depth(data: bytes) -> int:
    """Returns the bits of each channel of a PNG."""
    return data[_BIT_DEPTH]


def palette(data: bytes) -> list[tuple[int, int, int]]:
    """Returns the colours of an intact palette PNG, as many as are stored."""
    for kind, content in chunks(data):
        if kind == b"PLTE":
            return [(content[i], content[i + 1], content[i + 2]) for i in range(0, len(content) - 2, 3)]
    return []


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields the kind and the content of each chunk of a PNG."""
    start = len(_PNG)
    while start + 8 <= len(data):
        (size,) = struct.unpack_from(">I", data, start)
        yield data[start + 4 : start + 8], data[start + 8 : start + 8 + size]
        start += size + 12


def is_plain_label(data: bytes) -> bool:
    """Returns whether a PNG is 8-bit grey, which every program reads alike."""
    return len(data) > _COLOUR_TYPE and (data[_BIT_DEPTH], data[_COLOUR_TYPE]) == (8, 0)


def is_deep(data: bytes, name: str) -> bool:
    """Returns whether an image has more than 8 bits per channel; raises InputError if it is not an image."""
    if is_tiff(data):
        return tiff_bits(data, name) > 8
    picture = opened(data, name)
    return data[_BIT_DEPTH] == 16 if data.startswith(_PNG) else picture.mode.startswith("I;16")


def encode_image(pixels: np.ndarray) -> bytes:
    """Encodes an image, uint8 or uint16 `[H, W, 3]`, as PNG; `decode_image` returns it exactly."""
    return _encoded(pixels, "PNG") if pixels.dtype == np.uint8 else _encoded_deep(pixels)


def encode_label(label: np.ndarray) -> bytes:
    """Encodes a label map, uint8 `[H, W]`, as PNG; `decode_label` returns it exactly."""
    return _encoded(label, "PNG")


def encode_uncompressed(pixels: np.ndarray) -> bytes:
    """Encodes an image or a label map without compression, so that it is large and decoded at once.

    Args:
      pixels: uint8 `[H, W, 3]` or `[H, W]`, which becomes BMP; or uint16 `[H, W, 3]`, which becomes PNG.
    """
    return _encoded(pixels, "BMP") if pixels.dtype == np.uint8 else _encoded_deep(pixels, level=0)


def _encoded_deep(pixels: np.ndarray, level: int | None = None) -> bytes:
    import imagecodecs

    return bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels), level=level))


def _encoded(pixels: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def opened(data: bytes, name: str) -> Image.Image:
    """Opens an image that is not a TIFF by Pillow, without decoding it.

    Raises:
      InputError: the file is not an image, or too large.
    """
    with _naming(data, name), warnings.catch_warnings():
        # A large image is not an attack here, and one that is too large is refused below.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        Image.init()  # formats can be named only when they are registered; done once
        return Image.open(io.BytesIO(data), formats=_FORMATS)


def _load(data: bytes, name: str) -> Image.Image:
    picture = opened(data, name)
    with _naming(data, name):
        picture.load()
    # Pillow decodes a JPEG whose rest is zeros, as a crash leaves it, as grey.
    if data.startswith(_JPEG) and not _scans(data)[2]:
        raise _damaged(name, "it has no end, as if the rest was never written")
    return picture


@contextlib.contextmanager
def _naming(data: bytes, name: str) -> Iterator[None]:
    """Names the file in the errors of Pillow."""
    try:
        yield
    except Image.UnidentifiedImageError:
        raise _unknown(data, name) from None
    except Image.DecompressionBombError:
        raise InputError(
            f"{name}: too many pixels for Pillow; scale it down or cut it into pieces", what=name
        ) from None
    except _UNREADABLE as error:
        raise _damaged(name, one_line(error)) from None


def _unknown(data: bytes, name: str) -> InputError:
    """Returns the error for a file that is none of the images that are read, with its format if that is known."""
    kinds = [kind for start, pattern, kind in _OTHER_FORMATS if re.match(pattern, data[start : start + 400])]
    found = kinds[0] if kinds else "not an image that can be read"
    if not data:
        return InputError(f"{name}: the file is empty; replace or remove it", what=name)
    return InputError(
        f"{name}: {found}; images can be read as {_READABLE}: convert, replace or remove it",
        what=name,
        value=found,
        allowed=_READABLE,
    )


def _damaged(name: str, reason: str) -> InputError:
    return InputError(f"{name}: damaged or cut short ({reason}); replace or remove it", what=name)
