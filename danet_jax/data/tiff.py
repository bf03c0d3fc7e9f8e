"""Decodes TIFF and GeoTIFF with `tifffile`, and reports the contents of files that are not one RGB or grey image.

A TIFF can contain pages, thumbnails, pyramids, planes, palettes, inverted grey and bands of any number and type. `Tiff`
implements the rules for all of them.
"""

from __future__ import annotations

import io
import logging
import math
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from danet_jax.data.files import damage_error
from danet_jax.errors import InputError, one_line

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ORIENTATION, _OLD_SUBFILE_TYPE = 274, 255
_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_NONE, _OLD_JPEG, _JPEG = 1, 6, 7
_PREMULTIPLIED, _ALPHA = 1, 2  # Values of ExtraSamples.
_SAMPLE_FORMATS = {1: "unsigned", 2: "signed", 3: "floating-point", 5: "complex integer", 6: "complex"}


class Pixels(NamedTuple):
    """The decoded pixels of an image.

    Attributes:
      colours: uint8 or uint16 `[H, W]` (grey) or `[H, W, 3]` (RGB) as stored; the orientation is not applied.
      bits: The bits per sample, 8 to 16.
      alpha: `[H, W]` of the same type, or None.
      premultiplied: Whether the colours are multiplied by alpha.
    """

    colours: np.ndarray
    bits: int
    alpha: np.ndarray | None = None
    premultiplied: bool = False


def is_tiff(data: bytes) -> bool:
    """Returns whether an encoded image is a TIFF, a BigTIFF or a GeoTIFF."""
    return data[:4] in _MAGIC


class Tiff:
    """An opened TIFF, whose main page is decoded: the first page that is not a thumbnail.

    Args:
      data: The encoded file.
      name: The file's name, for error messages.

    Attributes:
      images: The number of images in the file, not counting thumbnails and smaller copies of the main page.
      size: Height and width of the main page as stored.
      bits: Bits per sample.
      orientation: The Orientation tag, 1 to 8; 1 (upright) if there is none.
      unused_band: Whether a band of unknown meaning beyond red, green and blue is omitted.

    Raises:
      InputError: The file is damaged.
    """

    def __init__(self, data: bytes, name: str):
        import tifffile

        # tifffile also logs decoding failures, which the errors already report.
        logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
        self._data, self._name = data, name
        try:
            file = tifffile.TiffFile(io.BytesIO(data))
            page, self.images = _main_page(list(file.pages))
            if file.is_imagej:  # ImageJ stores several images consecutively in one page.
                self.images = max(self.images, int((file.imagej_metadata or {}).get("images", 1)))
            self._page: Any = page
            self.size = int(page.imagelength), int(page.imagewidth)
            self._format, bits = page.sampleformat, page.bitspersample
            self._samples, extra = int(page.samplesperpixel), tuple(int(kind) for kind in page.extrasamples)
            self._photometric, self._compression = int(page.photometric), int(page.compression)
            turn = page.tags.get(_ORIENTATION)
            self.orientation = int(turn.value) if turn is not None and turn.value in range(1, 9) else 1
            self._same_bits = isinstance(bits, int)
            self.bits: int = bits if isinstance(bits, int) else max(bits)
        except Exception as error:  # tifffile can raise nearly any exception on damaged files.
            raise damage_error(self._name, one_line(error)) from None
        last = extra[-1] if extra else 0
        self._alpha = last if self._samples in (2, 4) and last in (_PREMULTIPLIED, _ALPHA) else 0
        self.unused_band = self._photometric == _RGB and self._samples > 3 and not self._alpha

    def pixels(self) -> Pixels:
        """Decodes the main page.

        Raises:
          InputError: The file is damaged, or its pixels are not grey or RGB of 1 to 16 unsigned bits, with or without
            alpha.
        """
        try:
            self._check_kind()
            self._check_segments()
            pixels = self._page.asarray()
            if self._page.axes.startswith("S"):  # The samples are stored as separate planes.
                pixels = np.moveaxis(pixels, 0, -1)
            if pixels.ndim not in (2, 3) or pixels.shape[:2] != self.size:
                raise self._unsupported(f"its pixels have the axes {self._page.axes}")
            return self._to_grey_or_rgb(pixels)
        except InputError:
            raise
        except Exception as error:
            raise damage_error(self._name, one_line(error)) from None

    def _to_grey_or_rgb(self, pixels: np.ndarray) -> Pixels:
        """Converts pixels of any photometric interpretation to grey or RGB."""
        if self._photometric == _PALETTE:
            table = np.asarray(self._page.colormap).T
            table = (table >> 8 if table.max() > 255 else table).astype(np.uint8)
            return Pixels(table[pixels], 8)
        if self._photometric == _CMYK:
            return Pixels(np.array(Image.fromarray(pixels, "CMYK").convert("RGB")), 8)
        if self._photometric == _YCBCR and self._compression != _JPEG:
            return Pixels(np.array(Image.fromarray(pixels, "YCbCr").convert("RGB")), 8)
        bits = max(8, self.bits)
        if self.bits < 8:
            pixels = (pixels.astype(np.uint16) * 255 // ((1 << self.bits) - 1)).astype(np.uint8)
        if self._photometric == _MIN_IS_WHITE:
            pixels = ((1 << bits) - 1 - pixels).astype(pixels.dtype)
        if pixels.ndim == 2:
            return Pixels(pixels, bits)
        colours = pixels[..., :3] if self._samples >= 3 else pixels[..., 0]
        alpha = pixels[..., -1] if self._alpha else None
        return Pixels(colours, bits, alpha, self._alpha == _PREMULTIPLIED)

    def _check_kind(self) -> None:
        (height, width), depth, bits = self.size, self._page.imagedepth, self._page.bitspersample
        if height * width > 2 * (Image.MAX_IMAGE_PIXELS or math.inf):
            raise InputError.for_file(self._name, "too many pixels; scale it down or cut it into pieces")
        if not height * width or depth > 1:
            raise self._unsupported(f"{width}x{height}x{depth} pixels")
        if not self._same_bits or self._format != 1 or not 1 <= self.bits <= 16:
            kind = _SAMPLE_FORMATS.get(self._format, "unknown")
            raise self._unsupported(f"{self._samples} bands of {bits} bits, {kind}")
        colours = self._samples - bool(self._alpha)
        subsampling = tuple(self._page.subsampling or (1, 1)) if self._compression != _JPEG else (1, 1)
        fits = {
            _MIN_IS_WHITE: colours == 1,
            _MIN_IS_BLACK: colours in (1, 3),  # GDAL usually writes three bands of 16 bits like this.
            _RGB: colours in (3, 4),  # A fourth band of unknown meaning, often infrared, is omitted.
            _PALETTE: self._samples == 1 and bits <= 8,
            _CMYK: self._samples == 4 and bits == 8,
            _YCBCR: self._samples == 3 and bits == 8 and subsampling == (1, 1),
        }
        if not fits.get(self._photometric, False):
            grey = self._photometric in (_MIN_IS_WHITE, _MIN_IS_BLACK)
            kind = "bands" if grey else f"samples ({self._page.photometric!s})"
            raise self._unsupported(f"{self._samples} {kind} of {bits} bits")

    def _check_segments(self) -> None:
        """Refuses a file with missing strips or tiles, which tifffile would fill with zeros."""
        segments = list(zip(self._page.dataoffsets, self._page.databytecounts, strict=False))
        expected = math.prod(self._page.chunked)
        if len(segments) < expected:
            raise damage_error(self._name, f"{len(segments)} of {expected} strips or tiles")
        for start, length in segments:
            end = start + length
            if not length or end > len(self._data):
                raise damage_error(self._name, "strips or tiles are missing")
            if self._compression in (_OLD_JPEG, _JPEG) and b"\xff\xd9" not in self._data[end - 16 : end]:
                raise damage_error(self._name, "a strip or tile has no end")
        bits = math.prod(self.size) * self._samples * self.bits
        if self._compression == _NONE and 8 * sum(length for _, length in segments) < bits:
            raise damage_error(self._name, "too little data")

    def _unsupported(self, found: str) -> InputError:
        readable = "grey and RGB of up to 16 unsigned bits can be read, with or without alpha"
        return InputError.for_file(self._name, f"a TIFF of {found}; {readable}: convert it", value=found)


def _main_page(pages: list[Any]) -> tuple[Any, int]:
    """Returns the first page that is not a thumbnail, and the number of images in the file."""
    full = [page for page in pages if not _is_reduced(page)]
    if not full:  # Raw formats store a thumbnail first and the image in a subpage of it.
        full = [sub for page in pages for sub in page.pages or () if not _is_reduced(sub)]
    full = full or pages
    larger = [page for page in full[1:] if _is_copy(full[0], page)]
    main = max(larger, key=lambda page: page.imagelength * page.imagewidth) if larger else full[0]
    return main, 1 + sum(page is not main and not _is_copy(page, main) for page in full)


def _is_reduced(page: Any) -> bool:
    """Returns whether the file declares a page to be a reduced copy or a mask of another one."""
    old = page.tags.get(_OLD_SUBFILE_TYPE)
    return bool(page.subfiletype & 0b101) or (old is not None and old.value == 2)


def _is_copy(small: Any, large: Any) -> bool:
    """Returns whether `small` is smaller than `large` and has the same aspect ratio to within a pixel."""
    height, width = large.imagelength, large.imagewidth
    if small.imagelength >= height or small.imagewidth >= width:
        return False
    return abs(small.imagelength * width - small.imagewidth * height) <= max(height, width)
