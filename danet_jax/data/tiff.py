"""Decodes TIFF and GeoTIFF by `tifffile`, or says what the file is if it does not hold one RGB or grey image.

A TIFF can hold pages, thumbnails, pyramids, planes, palettes, inverted grey and bands of any number and type. The rules
for all of them are in `_Tiff`.
"""

from __future__ import annotations

import io
import logging
import math
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from danet_jax.errors import InputError, one_line

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ORIENTATION, _OLD_SUBFILE_TYPE = 274, 255
_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_NONE, _OLD_JPEG, _JPEG = 1, 6, 7
_PREMULTIPLIED, _ALPHA = 1, 2  # values of ExtraSamples
_SAMPLE_FORMATS = {1: "unsigned", 2: "signed", 3: "floating-point", 5: "complex integer", 6: "complex"}


class TiffPixels(NamedTuple):
    """The decoded pixels of a TIFF.

    Attributes:
      colours: uint8 or uint16 `[H, W]` (grey) or `[H, W, 3]` (RGB), as stored, not turned by Orientation.
      bits: the bits per sample, 8 to 16; smaller ones are scaled to 8.
      alpha: `[H, W]` of the same type, or None.
      premultiplied: whether the colours are multiplied by alpha.
    """

    colours: np.ndarray
    bits: int
    alpha: np.ndarray | None = None
    premultiplied: bool = False


def is_tiff(data: bytes) -> bool:
    """Returns whether an encoded image is a TIFF, a BigTIFF or a GeoTIFF."""
    return data[:4] in _MAGIC


def tiff_orientation(data: bytes) -> int:
    """Returns the Orientation of a TIFF, 1 to 8; 1 if it has none that can be read."""
    try:
        tag = _Tiff(data, "").page.tags.get(_ORIENTATION)
        return int(tag.value) if tag is not None and tag.value in range(1, 9) else 1
    except (InputError, TypeError):
        return 1


def tiff_bits(data: bytes, name: str) -> int:
    """Returns the bits per sample of a TIFF."""
    return _Tiff(data, name).bits


def tiff_size(data: bytes, name: str) -> tuple[int, int]:
    """Returns the height and the width of a TIFF as stored."""
    page = _Tiff(data, name).page
    return page.imagelength, page.imagewidth


def tiff_remarks(data: bytes, name: str) -> tuple[bool, bool]:
    """Returns whether a TIFF has further pages, and whether it has a further band, that `decode_tiff` leaves out."""
    tiff = _Tiff(data, name)
    return tiff.images > 1, tiff.unused_band


def decode_tiff(data: bytes, name: str) -> TiffPixels:
    """Decodes the main page of a TIFF: the first that is not a thumbnail.

    Raises:
      InputError: the file is damaged, or does not hold grey or RGB of 1 to 16 unsigned bits, with or without alpha.
    """
    return _Tiff(data, name).decoded()


class _Tiff:
    """An opened TIFF.

    Attributes:
      page: the page to decode, tifffile's.
      images: how many images the file holds; thumbnails and smaller copies of the page do not count.
      bits: bits per sample.
      unused_band: whether there is a band beyond red, green and blue of unknown meaning; it is left out.
    """

    def __init__(self, data: bytes, name: str):
        import tifffile

        # What it cannot decode it also logs; the errors say it.
        logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
        self._data, self._name = data, name
        try:
            file = tifffile.TiffFile(io.BytesIO(data))
            self.page, self.images = _main_page(list(file.pages))
            if file.is_imagej:  # it stores several images behind one another in one page
                self.images = max(self.images, int((file.imagej_metadata or {}).get("images", 1)))
            page: Any = self.page
            self._format, bits = page.sampleformat, page.bitspersample
            self._samples, self._extra = page.samplesperpixel, tuple(int(kind) for kind in page.extrasamples)
            self._photometric, self._compression = int(page.photometric), int(page.compression)
        except Exception as error:  # tifffile raises nearly anything on damaged files
            raise self._damaged(one_line(error)) from None
        self._bits = bits
        self.bits = bits if isinstance(bits, int) else max(bits)
        self.unused_band = self._photometric == _RGB and self._samples > 3 and not self._alpha_kind()

    def decoded(self) -> TiffPixels:
        self._check_kind()
        self._check_segments()
        try:
            pixels = self.page.asarray()
        except Exception as error:
            raise self._damaged(one_line(error)) from None
        if self.page.axes.startswith("S"):  # planes
            pixels = np.moveaxis(pixels, 0, -1)
        if pixels.ndim not in (2, 3) or pixels.shape[:2] != (self.page.imagelength, self.page.imagewidth):
            raise self._refused(f"its pixels have the axes {self.page.axes}")
        return self._coloured(pixels)

    def _coloured(self, pixels: np.ndarray) -> TiffPixels:
        """Returns grey or RGB from what the pixels are."""
        largest, bits = (1 << self.bits) - 1, self.bits
        if self._photometric == _PALETTE:
            table = np.asarray(self.page.colormap).T
            table = (table >> 8 if table.max() > 255 else table).astype(np.uint8)
            return TiffPixels(table[pixels], 8)
        if self._photometric == _CMYK:
            return TiffPixels(np.asarray(Image.fromarray(pixels, "CMYK").convert("RGB")), 8)
        if self._photometric == _YCBCR and self._compression != _JPEG:
            return TiffPixels(np.asarray(Image.fromarray(pixels, "YCbCr").convert("RGB")), 8)
        if bits < 8:
            pixels, bits = (pixels.astype(np.uint16) * 255 // largest).astype(np.uint8), 8
            largest = 255
        if self._photometric == _MIN_IS_WHITE:
            pixels = (largest - pixels).astype(pixels.dtype)
        if pixels.ndim == 2:
            return TiffPixels(pixels, bits)
        kind = self._alpha_kind()
        colours = pixels[..., :3] if self._samples >= 3 else pixels[..., 0]
        return TiffPixels(colours, bits, pixels[..., -1] if kind else None, kind == _PREMULTIPLIED)

    def _alpha_kind(self) -> int:
        """Returns what the last sample is: premultiplied, alpha, or 0 for neither."""
        last = self._extra[-1] if self._extra else 0
        return last if self._samples in (2, 4) and last in (_PREMULTIPLIED, _ALPHA) else 0

    def _check_kind(self) -> None:
        page, bits = self.page, self._bits
        height, width = page.imagelength, page.imagewidth
        if height * width > 2 * (Image.MAX_IMAGE_PIXELS or math.inf):
            raise InputError(
                f"{self._name}: too many pixels; scale it down or cut it into pieces", what=self._name
            )
        if not height * width or page.imagedepth > 1:
            raise self._refused(f"{width}x{height}x{page.imagedepth} pixels")
        if not isinstance(bits, int) or self._format != 1 or not 1 <= bits <= 16:
            kind = _SAMPLE_FORMATS.get(self._format, "unknown")
            raise self._refused(f"{self._samples} bands of {bits} bits, {kind}")
        grey = self._photometric in (_MIN_IS_WHITE, _MIN_IS_BLACK)
        alpha = bool(self._alpha_kind())
        colours = self._samples - alpha
        fits = {
            _MIN_IS_WHITE: colours == 1,
            _MIN_IS_BLACK: colours in (1, 3),  # GDAL's usual way to write three bands of 16 bits
            _RGB: colours in (3, 4),  # a fourth band of unknown meaning, often infrared, is left out
            _PALETTE: self._samples == 1 and bits <= 8,
            _CMYK: self._samples == 4 and bits == 8,
            _YCBCR: self._samples == 3 and bits == 8 and self._whole_chroma(),
        }
        if not fits.get(self._photometric, False):
            kind = "bands" if grey else f"samples ({page.photometric!s})"
            raise self._refused(f"{self._samples} {kind} of {bits} bits")

    def _whole_chroma(self) -> bool:
        return self._compression == _JPEG or tuple(self.page.subsampling or (1, 1)) == (1, 1)

    def _check_segments(self) -> None:
        """Refuses a file that lacks some of its strips or tiles, which tifffile would fill with zeros."""
        page, size = self.page, len(self._data)
        segments = list(zip(page.dataoffsets, page.databytecounts, strict=False))
        if len(segments) < math.prod(page.chunked):
            raise self._damaged(f"{len(segments)} of {math.prod(page.chunked)} strips or tiles")
        for start, length in segments:
            if not length or start + length > size:
                raise self._damaged("strips or tiles are missing")
            end = self._data[start + length - 16 : start + length]
            if self._compression in (_OLD_JPEG, _JPEG) and b"\xff\xd9" not in end:
                raise self._damaged("a strip or tile has no end")
        if self._compression == _NONE and sum(length for _, length in segments) * 8 < (
            page.imagelength * page.imagewidth * self._samples * self.bits
        ):
            raise self._damaged("too little data")

    def _refused(self, found: str) -> InputError:
        return InputError(
            f"{self._name}: a TIFF of {found}; grey and RGB of up to 16 unsigned bits can be read, with or without "
            "alpha: convert it",
            what=self._name,
            value=found,
        )

    def _damaged(self, reason: str) -> InputError:
        return InputError(
            f"{self._name}: damaged or cut short ({reason}); replace or remove it", what=self._name
        )


def _main_page(pages: list[Any]) -> tuple[Any, int]:
    """Returns the first page that is not a thumbnail, and how many images the file holds."""
    full = [page for page in pages if not _is_reduced(page)]
    if not full:  # raw formats have a thumbnail first, and the image in a page below it
        full = [sub for page in pages for sub in page.pages or () if not _is_reduced(sub)]
    full = full or pages
    larger = [page for page in full[1:] if _is_copy(full[0], page)]
    main = max(larger, key=lambda page: page.imagelength * page.imagewidth) if larger else full[0]
    return main, 1 + sum(page is not main and not _is_copy(page, main) for page in full)


def _is_reduced(page: Any) -> bool:
    """Returns whether the file says that a page is a reduced copy or a mask of another one."""
    old = page.tags.get(_OLD_SUBFILE_TYPE)
    return bool(page.subfiletype & 0b101) or (old is not None and old.value == 2)


def _is_copy(small: Any, large: Any) -> bool:
    """Returns whether `small` is smaller than `large` and has the same shape, to within a pixel."""
    height, width = large.imagelength, large.imagewidth
    if small.imagelength >= height or small.imagewidth >= width:
        return False
    return abs(small.imagelength * width - small.imagewidth * height) <= max(height, width)
