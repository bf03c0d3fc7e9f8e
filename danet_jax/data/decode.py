"""Decodes images and label maps strictly: a file that cannot be decoded exactly is refused, and the error names it.

PNG is decoded by imagecodecs, TIFF by tifffile and everything else by Pillow. Transparent images are composited over
white. `upright` rotates and flips an image according to its EXIF orientation (or TIFF's Orientation). Prepared images
are already upright, because a label must be turned with its image (see `danet_jax.data.builders.pair`).

Pixels have the depth that a network takes: uint8, or uint16 from 0 to `2**depth - 1`. Either range represents 0 to 1.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import Image

from danet_jax.data.files import damage_error
from danet_jax.data.tiff import Pixels, Tiff, is_tiff
from danet_jax.errors import InputError, one_line

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"
BMP = b"BM"
JPEG_SCAN = 0xDA
_PROGRESSIVE, _END = 0xC2, 0xD9
_AFTER_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # Matches a marker that is not part of a scan.
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_FILLER = bytes(range(37, 250, 3)) * 2
_BIT_DEPTH, _COLOUR_TYPE = 24, 25  # Offsets in a PNG file, within its first chunk.
SMALLEST_RANGE = 2**14
"""16-bit images whose values stay below this are assumed to have 10, 12 or 14 bits.

Their upper 8 bits contain 64 levels or fewer.
"""
_FEW_LEVELS = 32
_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "WEBP")
"""Pillow supports other formats, some of which start programs (EPS) or contain images of several sizes (ICO)."""
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
"""Offset, pattern and name of common formats that cannot be read."""

_ORIENTATION = 0x0112  # The EXIF tag that says where the first row and column of the stored image belong.


def decode_image(
    data: bytes, name: str, *, upright: bool = False, bits: int = 16, depth: int = 8, trusted: bool = False
) -> np.ndarray:
    """Decodes a JPEG, PNG, TIFF or other format that Pillow reads to RGB.

    Grey and palette images become RGB, and transparent pixels are composited over white. Only the first frame of an
    animation is decoded, and only the first page of a TIFF that is not a thumbnail.

    Args:
      data: The encoded file.
      name: The file's name, for error messages.
      upright: Whether to turn the image according to its EXIF or TIFF orientation; cameras store it as the sensor was
        held.
      bits: The number of bits that are used in 16-bit channels, such as 12 for values up to 4095.
      depth: The bits per channel of the result. With 8, channels of more bits keep their upper 8 bits, such as
        4095 >> 4 for 12 bits. With more, the result is exact if `depth` equals `bits`.
      trusted: Whether the file has been decoded without an error before. A JPEG is then not checked for missing parts,
        which takes as long as decoding it, and 16-bit channels may use any part of their range.

    Returns:
      `[H, W, 3]`: uint8, or uint16 from 0 to `2**depth - 1` for a depth of more than 8 bits.

    Raises:
      InputError: The file is not an image, is damaged or cut short, has signed, floating-point or 32-bit pixels or more
        bands than RGB and alpha, or uses hardly any of the range of its 16 bits for a depth of 8.
    """
    pixels = _compose_over_white(_decode(data, name, trusted=trusted), bits, depth, name, trusted)
    return apply_orientation(pixels, orientation(data)) if upright else pixels


def _decode(data: bytes, name: str, *, trusted: bool) -> Pixels:
    """Returns the pixels as stored, of any depth, with or without alpha."""
    if is_tiff(data):
        return Tiff(data, name).pixels()
    if data.startswith(PNG):
        return _png_pixels(data, name)
    image = _load(data, name)
    if data.startswith(JPEG) and not trusted:
        _refuse_cut_jpeg(data, image, name)
    if image.mode.startswith("I;16"):
        return Pixels(np.asarray(image).astype(np.uint16), 16)
    if image.mode in ("I", "F"):
        raise InputError.for_file(name, "an image with 32-bit pixels; save it as 8-bit RGB")
    if image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA"))
        return Pixels(rgba[..., :3], 8, rgba[..., 3])
    return Pixels(np.array(image if image.mode == "RGB" else image.convert("RGB")), 8)


def to_depth(pixels: np.ndarray, depth: int, stored: int = 8) -> np.ndarray:
    """Converts pixels of `stored` bits to `depth` bits: the upper 8 as uint8, or the nearest values as uint16."""
    if depth == 8:
        return pixels if pixels.dtype == np.uint8 else (pixels >> (stored - 8)).astype(np.uint8)
    if depth == stored:
        return pixels.astype(np.uint16)
    levels = pixels.astype(np.uint32) * (2**depth - 1)
    return ((levels + (2**stored - 1) // 2) // (2**stored - 1)).astype(np.uint16)


def to_8_bits(pixels: np.ndarray, depth: int) -> np.ndarray:
    """Converts pixels of this depth to uint8 for display."""
    return to_depth(pixels, 8, depth)


def apply_orientation(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Returns pixels `[H, W, ...]` rotated and flipped according to an EXIF orientation, 1 to 8."""
    pixels = pixels.swapaxes(0, 1) if orientation > 4 else pixels
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(pixels[::rows, ::columns])


def image_size(data: bytes, name: str) -> tuple[int, int]:
    """Returns the height and width of an encoded image as stored; refuses what is not an image."""
    if is_tiff(data):
        return Tiff(data, name).size
    width, height = open_image(data, name).size
    return height, width


def orientation(data: bytes) -> int:
    """Returns the EXIF or TIFF orientation of an encoded image, 1 to 8; 1 (upright) if none can be read."""
    try:
        if is_tiff(data):
            return Tiff(data, "").orientation
        if not any(mark in data for mark in (b"Exif", b"eXIf", b"exif", b"EXIF")):
            return 1
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow can raise any exception on damaged EXIF data.
        return 1
    return found if found in range(1, 9) else 1


def remarks(data: bytes, name: str, bits: int = 16, pixels: np.ndarray | None = None) -> tuple[str, ...]:
    """Returns what `decode_image` omits or nearly loses, each as the object of "has" or "have".

    Args:
      data: The encoded file.
      name: The file's name, for error messages.
      bits: The number of bits that are used in 16-bit channels.
      pixels: The image decoded to `bits` bits, if that has been done already; only needed for 16-bit channels.

    Raises:
      InputError: The file is not an image, or is damaged.
    """
    if is_tiff(data):
        tiff = Tiff(data, name)
        frames, unused_band = tiff.images, tiff.unused_band
    else:
        with _name_file(data, name):
            frames, unused_band = getattr(open_image(data, name), "n_frames", 1), False
    found = []
    if frames > 1:
        found.append("several frames or pages, of which the first is used")
    if unused_band:
        found.append("a fourth band of unknown meaning, which is left out")
    if is_deep(data, name):
        pixels = decode_image(data, name, bits=bits, depth=bits) if pixels is None else pixels
        if int(pixels.max()) - int(pixels.min()) < (_FEW_LEVELS - 1) * 2 ** (bits - 8):
            found.append(f"little contrast: fewer than {_FEW_LEVELS} of the 256 grey levels of 8 bits")
    return tuple(found)


def is_deep(data: bytes, name: str) -> bool:
    """Returns whether an image has more than 8 bits per channel; refuses what is not an image."""
    if is_tiff(data):
        return Tiff(data, name).bits > 8
    if data.startswith((JPEG, PNG)):
        return data.startswith(PNG) and data[_BIT_DEPTH : _BIT_DEPTH + 1] == b"\x10"
    return open_image(data, name).mode.startswith("I;16")


def _png_pixels(data: bytes, name: str) -> Pixels:
    """Decodes any PNG, applying its palette and transparent colours."""
    import imagecodecs

    open_image(data, name)  # This refuses files that are not images or are too large.
    # Chunks that do not change the pixels are omitted, because libpng prints warnings about them.
    needed = (chunk for kind, chunk in png_chunks(data) if kind[:1].isupper() or kind == b"tRNS")
    try:
        pixels = np.asarray(imagecodecs.png_decode(PNG + b"".join(needed)))
    except Exception as error:
        raise damage_error(name, one_line(error)) from None
    bits = 8 * pixels.itemsize
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        return Pixels(pixels[..., :-1], bits, pixels[..., -1])
    return Pixels(pixels, bits)


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields the type of each chunk of a PNG and the chunk: 8 bytes of header, the content, 4 bytes of checksum."""
    start = len(PNG)
    while start + 8 <= len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        yield data[start + 4 : start + 8], data[start:end]
        start = end


def _compose_over_white(pixels: Pixels, bits: int, depth: int, name: str, trusted: bool) -> np.ndarray:
    """Converts pixels of any depth to RGB of `depth` bits, composited over white."""
    colours, stored, alpha, premultiplied = pixels
    if stored == 16:
        largest = int(colours.max(initial=0))
        if depth == 8 and bits == 16 and 0 < largest < SMALLEST_RANGE and not trusted:
            raise InputError.for_file(
                name,
                f"of 16 bits only values up to {largest} are used, of which {(largest >> 8) + 1} grey levels would be "
                "left for a network that was trained on 8-bit images; save it with 8 bits",
                value=largest,
            )
        if largest >> bits:
            problem = f"contains the value {largest}, which has more than {bits} bits"
            raise InputError.for_file(name, problem, value=largest)
    colours = np.atleast_3d(to_depth(colours, depth, bits if stored == 16 else stored))
    if alpha is not None:
        # Alpha has as many bits as the colours, or all 16.
        used = bits if stored == 16 and not int(alpha.max(initial=0)) >> bits else stored
        share = to_depth(alpha, depth, used).astype(np.uint16 if depth == 8 else np.uint32)[..., None]
        white = 2**depth - 1
        if share.min(initial=white) < white:
            if premultiplied:
                composed = np.minimum(colours + (white - share), white)
            else:
                composed = (colours * share + white * (white - share) + white // 2) // white
            colours = composed.astype(colours.dtype)
    return np.ascontiguousarray(colours if colours.shape[2] == 3 else np.repeat(colours, 3, axis=2))


def _refuse_cut_jpeg(data: bytes, image: Image.Image, name: str) -> None:
    """Refuses a JPEG with missing or truncated scans, which decoders would fill with grey or blur.

    A decoder skips bytes after a complete scan and decodes bytes after an incomplete one. The file is therefore decoded
    a second time with additional bytes after each scan, unless it has one scan and its last pixel is not grey.
    """
    segments = list(jpeg_segments(data))
    if _lacks_scans(data, segments):
        raise damage_error(name, "it ends before its last scan")
    scans = [(start, end) for marker, start, end in segments if marker == JPEG_SCAN]
    corner = image.crop((image.width - 1, image.height - 1, *image.size))
    grey = corner.getchannel("K") if image.mode == "CMYK" else corner.convert("L")
    if len(scans) == 1 and abs(int(np.asarray(grey)[0, 0]) - 128) > 3:
        return
    filled, written = b"", 0
    for start, end in scans:
        # This is the restart marker that a decoder would expect next.
        restart = 0xD0 + len(_RESTART.findall(data, start, end)) % 8
        filled, written = filled + data[written:end] + _FILLER + bytes([0xFF, restart]) + _FILLER, end
    with contextlib.suppress(InputError):
        if np.array_equal(np.asarray(_load(filled + data[written:], name)), np.asarray(image)):
            return
    raise damage_error(name, "it ends early")


def _lacks_scans(data: bytes, segments: list[tuple[int, int, int]]) -> bool:
    """Returns whether a component of a JPEG has a coefficient whose lowest bit is not in any scan."""
    complete: dict[int, int] = {}  # One bit mask of complete coefficients per component.
    progressive = False
    for marker, start, _ in segments:
        if 0xC0 <= marker <= _PROGRESSIVE:
            progressive = marker == _PROGRESSIVE
            complete = dict.fromkeys(data[start + 6 : start + 6 + 3 * data[start + 5] : 3], 0)
        elif marker == JPEG_SCAN:
            end = start + 1 + 2 * data[start]
            first, last, bits = data[end : end + 3] if progressive else (0, 63, 0)
            if bits & 15 == 0:
                for component in data[start + 1 : end : 2]:
                    complete[component] = complete.get(component, 0) | (2 << last) - (1 << first)
    return any(coefficients != 2**64 - 1 for coefficients in complete.values())


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields the marker and the start and end of the content of each segment of a JPEG.

    The content of `JPEG_SCAN` includes the scan's compressed data. The last segment is the end marker, if present.
    """
    start = 2
    while start + 2 <= len(data):
        marker = data[start + 1]
        if data[start] != 0xFF or marker in (0, 0xFF):  # Padding is skipped.
            start += 1
            continue
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if marker == JPEG_SCAN:
            after = _AFTER_SCAN.search(data, end)
            if after is None:
                return
            end = after.start()
            while data[end - 1] == 0xFF:  # Padding is not part of the scan.
                end -= 1
        yield marker, start + 4, end
        if marker == _END:
            return
        start = end


def decode_label(data: bytes, name: str) -> np.ndarray:
    """Decodes a label map: an 8-bit single-channel PNG, or a palette PNG whose indices are the labels.

    Data that were prepared without compression contain BMP instead.

    Returns:
      uint8 `[H, W]`, the values exactly as stored.

    Raises:
      InputError: The file is not a PNG, is damaged or cut short, or is a colour or 16-bit image.
    """
    if data.startswith(BMP):
        image = _load(data, name)
        if image.mode == "L":
            return np.array(image)
    return stored_label(load_label(data, name), data, name)


def load_label(data: bytes, name: str) -> Image.Image:
    """Decodes a PNG of any kind; refuses other files, several frames, and damage."""
    if not data.startswith(PNG):
        kind = "TIFF" if is_tiff(data) else open_image(data, name).format
        problem = f"labels must be PNG, which keeps their values, not {kind}"
        raise InputError.for_file(name, problem, value=kind, allowed="PNG")
    image = _load(data, name)
    if getattr(image, "n_frames", 1) > 1:
        raise InputError.for_file(name, "has several frames; save the intended one")
    last_rows = np.asarray(image.crop((0, max(0, image.height - 2), *image.size)))
    if not all(row.any() for row in last_rows):
        _png_pixels(data, name)  # Pillow leaves rows with missing data at 0, without an error.
    return image


def stored_label(image: Image.Image, data: bytes, name: str) -> np.ndarray:
    """Returns the label values of the PNG `data`, given the `image` that `load_label` returned for it."""
    if image.mode not in ("1", "L", "P"):
        kind = "16-bit image" if image.mode.startswith("I") else f"colour image ({image.mode})"
        problem = f"a {kind}; labels must be 8-bit single-channel or palette PNG of class ids"
        raise InputError.for_file(name, problem, value=image.mode)
    label = np.array(image, np.uint8)
    if image.mode == "L" and data[_COLOUR_TYPE] == 0 and bit_depth(data) < 8:
        # Pillow scales 2- and 4-bit grey to 0..255, which is right for images but wrong for labels.
        label //= 255 // ((1 << bit_depth(data)) - 1)
    return label


def bit_depth(data: bytes) -> int:
    """Returns the bits per channel of a PNG."""
    return data[_BIT_DEPTH]


def palette(data: bytes) -> list[tuple[int, int, int]]:
    """Returns all colours in the palette of an intact palette PNG."""
    [colours] = (chunk[8:-4] for kind, chunk in png_chunks(data) if kind == b"PLTE")
    return [(red, green, blue) for red, green, blue in zip(*[iter(colours)] * 3, strict=True)]


def is_plain_label(data: bytes) -> bool:
    """Returns whether an intact PNG is 8-bit grey, which every program reads the same way."""
    return (bit_depth(data), data[_COLOUR_TYPE]) == (8, 0)


def encode_image(pixels: np.ndarray) -> bytes:
    """Encodes an image, uint8 or uint16 `[H, W, 3]`, as PNG; `decode_image` returns it exactly."""
    return _encode(pixels, "PNG") if pixels.dtype == np.uint8 else _encode_png16(pixels)


def encode_label(label: np.ndarray) -> bytes:
    """Encodes a label map, uint8 `[H, W]`, as PNG; `decode_label` returns it exactly."""
    return _encode(label, "PNG")


def encode_uncompressed(pixels: np.ndarray) -> bytes:
    """Encodes an image or a label map without compression: uint8 as BMP, and uint16 `[H, W, 3]` as PNG."""
    return _encode(pixels, "BMP") if pixels.dtype == np.uint8 else _encode_png16(pixels, level=0)


def _encode(pixels: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def _encode_png16(pixels: np.ndarray, level: int | None = None) -> bytes:
    import imagecodecs

    return bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels), level=level))


def open_image(data: bytes, name: str) -> Image.Image:
    """Opens an image that is not a TIFF with Pillow, without decoding it; refuses what is not an image or too large."""
    with _name_file(data, name), warnings.catch_warnings():
        # Large images are legitimate here, and those that are too large are refused.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        Image.init()  # Formats can only be selected once they are registered; repeated calls do nothing.
        return Image.open(io.BytesIO(data), formats=_FORMATS)


def _load(data: bytes, name: str) -> Image.Image:
    """Decodes an image that is not a TIFF with Pillow."""
    image = open_image(data, name)
    with _name_file(data, name):
        image.load()
    # Pillow decodes missing JPEG data as grey if the rest of the file is zeros, as after a crash.
    if data.startswith(JPEG) and all(marker != _END for marker, _, _ in jpeg_segments(data)):
        raise damage_error(name, "it has no end, as if the rest was never written")
    return image


@contextlib.contextmanager
def _name_file(data: bytes, name: str) -> Iterator[None]:
    """Replaces Pillow's errors by ones that name the file."""
    try:
        yield
    except Image.UnidentifiedImageError:
        raise _unknown_format(data, name) from None
    except Image.DecompressionBombError:
        raise InputError.for_file(
            name, "too many pixels for Pillow; scale it down or cut it into pieces"
        ) from None
    except InputError:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        raise damage_error(name, one_line(error)) from None


def _unknown_format(data: bytes, name: str) -> InputError:
    """Returns the error for a file that cannot be read as an image, with its format if that is known."""
    if not data:
        return InputError.for_file(name, "the file is empty; replace or remove it")
    kinds = [kind for start, pattern, kind in _OTHER_FORMATS if re.match(pattern, data[start : start + 400])]
    found = kinds[0] if kinds else "not an image that can be read"
    problem = f"{found}; images can be read as {_READABLE}: convert, replace or remove it"
    return InputError.for_file(name, problem, value=found, allowed=_READABLE)
