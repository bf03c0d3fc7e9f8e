"""Where label files come in: what the pixels of a PNG mean, or why that cannot be told.

A label PNG can be written in several ways, and programs that make PNGs smaller change one into another. They
keep every pixel's colour, not its index: a palette is renumbered, grey levels become a palette of (v, v, v), eight
bits become one, two or four. So a file is read by its colours wherever those are known, by its indices where
colours mean nothing, and refused where both are possible and differ.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Collection, Mapping

import numpy as np
from PIL import Image

from danet_jax.classes import IGNORE_LABEL, Classes
from danet_jax.data import decode
from danet_jax.errors import InputError

Colour = tuple[int, int, int]

AUTO, IDS, COLOURS = "auto", "ids", "colours"
READ_BY = (AUTO, IDS, COLOURS)

_SHOWN = 3
_REMEDY = "save it as 8-bit grey, or set dataset.options.labels to ids or colours"


@dataclasses.dataclass(frozen=True)
class LabelFile:
    """A label file that was read.

    Attributes:
      values: uint8 `[H, W]`.
      by_colour: Whether `values` are classes (and 255) by their colours; else they are the ids that the file holds.
      as_stored: Whether `decode.decode_label` of the file gives `values`, too.
    """

    values: np.ndarray
    by_colour: bool = False
    as_stored: bool = False


class Palettes:
    """Holds palettes whose colours say nothing against each other: they must be one, or indices mean nothing.

    May be used by several threads.
    """

    def __init__(self) -> None:
        self._colours: dict[int, Colour] = {}
        self._first = ""
        self._lock = threading.Lock()

    def agree(self, colours: Mapping[int, Colour], name: str) -> None:
        """Add the colours of one file's indices.

        Raises:
          InputError: Another file gives an index another colour.
        """
        with self._lock:
            for index, colour in colours.items():
                if self._colours.setdefault(index, colour) != colour:
                    raise InputError(
                        f"{name}: its palette gives {index} the colour {colour}, that of {self._first} gives it "
                        f"{self._colours[index]}: indices do not mean the same in all files; give the classes' "
                        f"colours in classes.csv, or {_REMEDY}"
                    )
            self._first = self._first or name


class LabelFiles:
    """Reads the label files of one data set, which must agree with each other; may be used by several threads.

    Args:
      valid: The ids that may occur.
      colours: Classes (and 255) by their colour, where the data set gives colours.
      read_by: "ids" never looks at colours, "colours" at nothing else; "auto" does as this module says.
      always_by_colour: Of grey of fewer than 8 bits: the publisher's files have 8, so that a program made it so.
      ignore_others: Whether colours that no class has are ignored instead of refused.
      palettes: Those of the files that were read before; these are added.
      without_colours: Why there are no `colours`, if the data set gives some that cannot be used.
    """

    def __init__(
        self,
        valid: Collection[int],
        colours: Mapping[Colour, int] | None = None,
        *,
        read_by: str = AUTO,
        always_by_colour: bool = False,
        ignore_others: bool = False,
        palettes: Palettes | None = None,
        without_colours: str = "",
    ):
        self._valid = np.zeros(256, bool)
        self._valid[list(valid)] = True
        self._colours = dict(colours or {})
        self._read_by = read_by
        self._always_by_colour = always_by_colour
        self._ignore_others = ignore_others
        self._palettes = palettes or Palettes()
        self._without_colours = without_colours

    def read(self, data: bytes, name: str) -> LabelFile:
        """Read one label file.

        Raises:
          InputError: It is no PNG, is damaged, or it cannot be told what its pixels mean.
        """
        picture = decode.load_label(data, name)
        if self._read_by != IDS and (picture.mode in ("RGB", "RGBA") or self._read_by == COLOURS):
            return LabelFile(self._by_colours(picture, name), by_colour=True)
        stored = decode.stored_label(picture, data, name)
        as_stored = LabelFile(stored, as_stored=True)
        if self._read_by == IDS:
            return as_stored
        if picture.mode == "P":
            return self._of_palette(stored, decode.palette(data), as_stored, name)
        return self._of_grey(stored, decode.bit_depth(data), as_stored, name)

    def _of_grey(self, stored: np.ndarray, bits: int, as_stored: LabelFile, name: str) -> LabelFile:
        grey = stored * np.uint8(255 // ((1 << bits) - 1))
        used = np.flatnonzero(np.bincount(grey.ravel(), minlength=256))
        if bits == 8 and self._valid[used].all():
            return as_stored
        if all((value, value, value) in self._colours for value in used.tolist()):
            classes = {value: self._colours[value, value, value] for value in used.tolist()}
            return LabelFile(_looked_up(grey, classes), by_colour=True)
        if bits == 8:
            return as_stored  # whoever checks the values will name those that are wrong
        if self._always_by_colour or not used.any():
            return LabelFile(grey)
        if not self._valid[used].all():
            return as_stored
        if not self._valid[np.unique(stored)].all():
            return LabelFile(grey)
        raise InputError(
            f"{name}: grey of {bits} bit: its pixels are either the ids {_some(np.unique(stored))} or, if a program "
            f"made the file smaller, the grey levels {_some(used)}; {_REMEDY}"
        )

    def _of_palette(
        self, stored: np.ndarray, palette: list[Colour], as_stored: LabelFile, name: str
    ) -> LabelFile:
        used = np.unique(stored).tolist()
        if used[-1] >= len(palette):
            raise InputError(f"{name}: damaged: pixel {used[-1]} of a palette of {len(palette)} colours")
        colours = {index: palette[index] for index in used}
        apart = all(palette.count(colour) == 1 for colour in colours.values())
        known = {index: self._colours[colour] for index, colour in colours.items() if colour in self._colours}
        if len(known) == len(used):
            if all(index == label for index, label in known.items()):
                return dataclasses.replace(as_stored, by_colour=True)
            if apart:
                return LabelFile(_looked_up(stored, known), by_colour=True)
        if apart and all(red == green == blue for red, green, blue in colours.values()):
            greys = {index: colour[0] for index, colour in colours.items()}
            if all(index == grey for index, grey in greys.items()):
                return as_stored
            if all(self._valid[grey] for grey in greys.values()):
                ids_possible = all(self._valid[index] for index in used)
                if ids_possible and set(greys.values()) <= {0, 255}:
                    raise InputError(
                        f"{name}: its pixels are either the ids {_some(used)} or, by its palette, the grey levels "
                        f"{_some(sorted(greys.values()))}; {_REMEDY}"
                    )
                return LabelFile(_looked_up(stored, greys))
        moved = [index for index, label in known.items() if index != label]
        if apart and moved:
            index = moved[0]
            raise InputError(
                f"{name}: its palette gives {index} the colour {colours[index]} of class {known[index]}, and others "
                f"colours of no class; a program may have renumbered it: {_REMEDY}"
            )
        self._palettes.agree(colours, name)
        return as_stored

    def _by_colours(self, picture: Image.Image, name: str) -> np.ndarray:
        kind = "" if picture.mode in ("1", "L", "P") else f"a {picture.mode} colour picture; "
        if not self._colours or (kind and picture.mode not in ("RGB", "RGBA")):
            raise InputError(
                f"{name}: {kind}labels must be 8-bit single-channel or palette PNG of class ids, or RGB in the "
                "colours that classes.csv gives the classes (id,name,red,green,blue)"
                + (f"; {self._without_colours}" if self._without_colours else "")
            )
        pixels = _opaque(picture, name)
        wide = pixels.astype(np.uint32)
        codes = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
        found, where, counts = np.unique(codes, return_inverse=True, return_counts=True)
        colours = [(int(code) >> 16, int(code) >> 8 & 255, int(code) & 255) for code in found]
        unknown = [
            f"{colour} ({count} pixels)"
            for colour, count in zip(colours, counts.tolist(), strict=True)
            if colour not in self._colours
        ]
        if unknown and not self._ignore_others:
            more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
            raise InputError(
                f"{name}: {kind}labels must be 8-bit ids or in the classes' colours, and {', '.join(unknown[:_SHOWN])}"
                f"{more} is no class's; correct it or the colours of the classes, or set dataset.options.others=ignore"
            )
        labels = np.array([self._colours.get(colour, IGNORE_LABEL) for colour in colours], np.uint8)
        return labels[where.reshape(codes.shape)]


def class_colours(classes: Classes, ignored: Collection[Colour] = ()) -> dict[Colour, int]:
    """Return the class of each colour, and 255 of the colours of what is ignored.

    Raises:
      InputError: Two classes have one colour.
    """
    colours: dict[Colour, int] = dict.fromkeys(ignored, IGNORE_LABEL)
    for label, colour in enumerate(classes.colours):
        if colours.get(colour, IGNORE_LABEL) != IGNORE_LABEL:
            other = classes.names[colours[colour]]
            raise InputError(f"{classes.names[label]!r} and {other!r} have the same colour {colour}")
        colours[colour] = label
    return colours


def _opaque(picture: Image.Image, name: str) -> np.ndarray:
    if picture.mode == "RGBA" and picture.getchannel("A").getextrema() != (255, 255):
        raise InputError(f"{name}: parts of it are transparent; save the labels as RGB without alpha")
    return np.asarray(picture.convert("RGB"))


def _looked_up(stored: np.ndarray, labels: Mapping[int, int]) -> np.ndarray:
    table = np.zeros(256, np.uint8)
    table[list(labels)] = list(labels.values())
    return table[stored]


def _some(values: Collection[int]) -> str:
    shown = ", ".join(str(value) for value in list(values)[:_SHOWN])
    return shown + (", ..." if len(values) > _SHOWN else "")
