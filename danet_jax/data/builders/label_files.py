"""Reads label files: decides what the pixels of a PNG or a MATLAB file mean, or says why that is ambiguous.

The same labels can be stored as PNG in several ways, and programs that compress PNGs convert one into another. They
keep the colour of every pixel, not its index: a palette is renumbered, grey levels become a palette of (v, v, v), eight
bits become one, two or four. So a file is read by its colours wherever those are known, by its indices where the
colours mean nothing, and refused where both are possible and differ.
"""

from __future__ import annotations

import dataclasses
import io
import threading
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from PIL import Image

from danet_jax.classes import IGNORE_LABEL, Classes
from danet_jax.data import decode
from danet_jax.data.labels import LabelMapping, bit_colours
from danet_jax.errors import InputError, one_line

Colour = tuple[int, int, int]

AUTO, IDS, COLOURS = "auto", "ids", "colours"
READ_BY = (AUTO, IDS, COLOURS)

[VOC_VOID] = bit_colours((255,))
"""The colour of pixels that PASCAL VOC ignores."""

_SHOWN = 3
_REMEDY = "save it as 8-bit grey, or set dataset.options.labels to ids or colours"


@dataclasses.dataclass(frozen=True)
class LabelFile:
    """A label file that was read.

    Attributes:
      values: uint8 `[H, W]`.
      by_colour: whether `values` are classes (and 255) by their colours; otherwise they are the ids in the file.
      as_stored: whether `decode.decode_label` of the file returns `values`, too.
    """

    values: np.ndarray
    by_colour: bool = False
    as_stored: bool = False


class Palettes:
    """The palettes of the label files of a data set: they must agree, or their indices mean nothing.

    May be used by several threads.
    """

    def __init__(self) -> None:
        self._colours: dict[int, Colour] = {}
        self._first = ""
        self._lock = threading.Lock()

    def agree(self, colours: Mapping[int, Colour], name: str) -> None:
        """Adds the colours of one file's indices.

        Raises:
          InputError: another file gives an index another colour.
        """
        with self._lock:
            for index, colour in colours.items():
                if self._colours.setdefault(index, colour) != colour:
                    raise InputError(
                        f"{name}: its palette gives {index} the colour {colour}, that of {self._first} gives it "
                        f"{self._colours[index]}: indices do not mean the same in all files; give the classes' "
                        f"colours in classes.csv, or {_REMEDY}",
                        what=name,
                        value=colour,
                        allowed=self._colours[index],
                    )
            self._first = self._first or name


class LabelFiles:
    """Reads the label files of one data set, which must agree with each other; may be used by several threads.

    Args:
      valid: the ids that may occur.
      colours: classes (and 255) by their colour, where the data set gives colours.
      read_by: "ids" never looks at colours, "colours" at nothing else; "auto" does as this module says.
      always_by_colour: read grey of fewer than 8 bits by its grey levels: the publisher's files have 8 bits.
      ignore_others: ignore colours of no class instead of refusing them.
      palettes: the palettes of the files read so far; those of further files are added.
      without_colours: why there are no `colours`, if the data set gives some that cannot be used.
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
        """Reads one label file.

        Raises:
          InputError: it is not a PNG, is damaged, or the meaning of its pixels is ambiguous.
        """
        picture = decode.load_label(data, name)
        if picture.mode in ("RGB", "RGBA") and decode.bit_depth(data) == 16:
            raise InputError(
                f"{name}: a {picture.mode} colour picture of 16 bits per channel (SYNTHIA's labels are, with the class "
                "in the red channel); save the class ids as 8-bit single-channel PNG",
                what=name,
            )
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
            f"{name}: grey of {bits} bits: its pixels are either the ids {_some(np.unique(stored))} or, if a program "
            f"compressed the file, the grey levels {_some(used)}; {_REMEDY}",
            what=name,
        )

    def _of_palette(
        self, stored: np.ndarray, palette: list[Colour], as_stored: LabelFile, name: str
    ) -> LabelFile:
        used = np.unique(stored).tolist()
        if used[-1] >= len(palette):
            raise InputError(
                f"{name}: damaged: pixel {used[-1]} of a palette of {len(palette)} colours", what=name
            )
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
                        f"{_some(sorted(greys.values()))}; {_REMEDY}",
                        what=name,
                    )
                return LabelFile(_looked_up(stored, greys))
        moved = [index for index, label in known.items() if index != label]
        if apart and moved:
            index = moved[0]
            raise InputError(
                f"{name}: its palette gives {index} the colour {colours[index]} of class {known[index]}, and others "
                f"colours of no class; a program may have renumbered it: {_REMEDY}",
                what=name,
                value=colours[index],
            )
        self._palettes.agree(colours, name)
        return as_stored

    def _by_colours(self, picture: Image.Image, name: str) -> np.ndarray:
        kind = "" if picture.mode in ("1", "L", "P") else f"a {picture.mode} colour picture; "
        if not self._colours or (kind and picture.mode not in ("RGB", "RGBA")):
            raise InputError(
                f"{name}: {kind}labels must be 8-bit single-channel or palette PNG of class ids, or RGB in the "
                "colours that classes.csv gives the classes (id,name,red,green,blue)"
                + (f"; {self._without_colours}" if self._without_colours else ""),
                what=name,
            )
        pixels = _opaque(picture, name)
        wide = pixels.astype(np.uint32)
        codes = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
        found, where, counts = np.unique(codes, return_inverse=True, return_counts=True)
        colours = [(int(code) >> 16, int(code) >> 8 & 255, int(code) & 255) for code in found]
        unknown = {
            colour: count
            for colour, count in zip(colours, counts.tolist(), strict=True)
            if colour not in self._colours
        }
        if unknown and not self._ignore_others:
            shown = [f"{colour} ({count} pixels)" for colour, count in list(unknown.items())[:_SHOWN]]
            more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
            raise InputError(
                f"{name}: {kind}labels must be 8-bit ids or in the classes' colours, and {', '.join(shown)}{more} is "
                "no class's; correct it or the colours of the classes, or set dataset.options.others=ignore",
                what=name,
                value=unknown,
            )
        labels = np.array([self._colours.get(colour, IGNORE_LABEL) for colour in colours], np.uint8)
        return labels[where.reshape(codes.shape)]


def class_colours(classes: Classes, ignored: Collection[Colour] = ()) -> dict[Colour, int]:
    """Returns the class of each colour, and 255 for the colours of ignored pixels.

    Raises:
      InputError: two classes have the same colour.
    """
    colours: dict[Colour, int] = dict.fromkeys(ignored, IGNORE_LABEL)
    for label, colour in enumerate(classes.colours):
        if colours.get(colour, IGNORE_LABEL) != IGNORE_LABEL:
            other = classes.names[colours[colour]]
            raise InputError(
                f"{classes.names[label]!r} and {other!r} have the same colour {colour}", value=colour
            )
        colours[colour] = label
    return colours


def _opaque(picture: Image.Image, name: str) -> np.ndarray:
    if picture.mode == "RGBA" and picture.getchannel("A").getextrema() != (255, 255):
        raise InputError(
            f"{name}: parts of it are transparent; save the labels as RGB without alpha", what=name
        )
    return np.asarray(picture.convert("RGB"))


def _looked_up(stored: np.ndarray, labels: Mapping[int, int]) -> np.ndarray:
    table = np.zeros(256, np.uint8)
    table[list(labels)] = list(labels.values())
    return table[stored]


def _some(values: Collection[int]) -> str:
    shown = ", ".join(str(value) for value in list(values)[:_SHOWN])
    return shown + (", ..." if len(values) > _SHOWN else "")


def mapped_png(mapping: LabelMapping, files: LabelFiles, data: bytes, name: str) -> bytes:
    """Returns a PNG of train ids from a PNG of the publisher's ids."""
    return decode.encode_label(mapping.to_train_ids(files.read(data, name).values, name))


def same_png(files: LabelFiles, data: bytes, name: str) -> bytes:
    """Returns a PNG of train ids from a PNG of train ids: `data`, unless a program has renumbered its palette."""
    read = files.read(data, name)
    return data if read.as_stored else decode.encode_label(read.values)


def grey_labels(train_ids: Collection[int], palettes: Palettes) -> LabelFiles:
    """Returns a reader of grey PNGs of train ids."""
    return LabelFiles(train_ids, always_by_colour=True, palettes=palettes)


def published_labels(
    mapping: LabelMapping, palettes: Palettes | None = None, *, in_colours: bool = False
) -> LabelFiles:
    """Returns a reader of a publisher's PNGs, which are grey or have a palette of the classes' colours."""
    colours = class_colours(mapping.classes, ignored=(VOC_VOID,)) if in_colours else {}
    return LabelFiles({*mapping.ids, *mapping.others}, colours, always_by_colour=True, palettes=palettes)


def mapped_mat(mapping: LabelMapping, path: Sequence[str], data: bytes, name: str) -> bytes:
    """Returns a PNG of train ids from a MATLAB file of the publisher's ids.

    Args:
      mapping: from the ids to train ids.
      path: the variable that holds the label map, followed by the fields below it if it is a struct.
      data: the file.
      name: its name, for error messages.

    Raises:
      InputError: the file is damaged or holds something else.
    """
    import scipy.io

    try:
        value = scipy.io.loadmat(io.BytesIO(data), variable_names=[path[0]])[path[0]]
        for field in path[1:]:
            value = value[field][0, 0]
    except Exception as error:  # scipy raises nearly anything on damaged files
        reason = f"no {'.'.join(path)}" if isinstance(error, (KeyError, IndexError)) else str(error)
        raise InputError(
            f"{name}: cannot be read as this data set's .mat ({one_line(reason)}); download it again",
            what=name,
        ) from None
    value = np.asarray(value)
    if value.dtype.kind == "f":  # MATLAB's default
        value = value.astype(np.int64)
    if value.ndim != 2 or value.dtype.kind not in "ui":
        raise InputError(
            f"{name}: {'.'.join(path)} is {value.dtype} of shape {value.shape}, not a label map", what=name
        )
    return decode.encode_label(mapping.to_train_ids(value, name))
