"""Reads label files: determines what the pixels of a PNG or a MATLAB file mean, or reports why they are ambiguous.

The same labels can be stored as PNG in several formats, and programs that compress PNGs convert between them. These
programs preserve the colour of every pixel but not its index: a palette is renumbered, grey levels become a palette of
(v, v, v), or eight bits become one, two or four. A file is therefore read by its colours if they are known, read by its
indices if the colours have no meaning, and refused if both readings are possible and differ.
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
from danet_jax.data.summary import some
from danet_jax.errors import InputError, one_line

Colour = tuple[int, int, int]

AUTO, IDS, COLOURS = "auto", "ids", "colours"
READ_BY = (AUTO, IDS, COLOURS)

[_VOC_VOID] = bit_colours((IGNORE_LABEL,))

_REMEDY = "save it as 8-bit grey, or set dataset.options.labels to ids or colours"


@dataclasses.dataclass(frozen=True)
class LabelFile:
    """The content of a label file.

    Attributes:
      values: uint8 `[H, W]`.
      by_colour: Whether `values` are classes (and 255) found by their colours; otherwise they are the ids in the file.
      as_stored: Whether `decode.decode_label` also returns `values` for the file.
    """

    values: np.ndarray
    by_colour: bool = False
    as_stored: bool = False


class LabelFiles:
    """Reads the label files of one data set, whose palettes must agree; several threads may share an instance.

    Args:
      valid: The ids that may occur.
      colours: Classes (and 255) by their colour, if the data set defines colours.
      read_by: "ids" never uses colours, "colours" uses nothing else, and "auto" follows the rules of this module.
      always_by_colour: Whether grey of fewer than 8 bits is always read by its grey levels, because the publisher's
        files have 8 bits.
      ignore_others: Whether colours that belong to no class are ignored instead of refused.
      without_colours: The reason why `colours` is empty, if the data set defines colours that cannot be used.
    """

    def __init__(
        self,
        valid: Collection[int],
        colours: Mapping[Colour, int] | None = None,
        *,
        read_by: str = AUTO,
        always_by_colour: bool = False,
        ignore_others: bool = False,
        without_colours: str = "",
    ):
        self._valid = np.isin(np.arange(256), list(valid))
        self._colours = dict(colours or {})
        self._read_by = read_by
        self._always_by_colour = always_by_colour
        self._ignore_others = ignore_others
        self._without_colours = without_colours
        # The colour of each index, and the first file that contains it.
        self._palette: dict[int, tuple[Colour, str]] = {}
        self._lock = threading.Lock()

    def read(self, data: bytes, name: str) -> LabelFile:
        """Reads one label file; refuses what is not a PNG, is damaged, or has pixels of ambiguous meaning."""
        image = decode.load_label(data, name)
        in_colour = image.mode in ("RGB", "RGBA")
        if in_colour and decode.bit_depth(data) == 16:
            raise InputError.for_file(
                name,
                f"{image.mode} colours of 16 bits per channel, as in SYNTHIA, whose red channel contains the class; "
                "save the class ids as 8-bit single-channel PNG",
            )
        if self._read_by == COLOURS or (in_colour and self._read_by == AUTO):
            return LabelFile(self._read_colours(image, name), by_colour=True)
        as_stored = LabelFile(decode.stored_label(image, data, name), as_stored=True)
        if self._read_by == IDS:
            return as_stored
        if image.mode == "P":
            return self._read_palette(as_stored, decode.palette(data), name)
        return self._read_grey(as_stored, decode.bit_depth(data), name)

    def _read_grey(self, as_stored: LabelFile, bits: int, name: str) -> LabelFile:
        grey = as_stored.values * np.uint8(255 // ((1 << bits) - 1))
        used = np.flatnonzero(np.bincount(grey.ravel(), minlength=256))
        if bits == 8 and self._valid[used].all():
            return as_stored
        if all((value, value, value) in self._colours for value in used.tolist()):
            classes = {value: self._colours[value, value, value] for value in used.tolist()}
            return LabelFile(_look_up(grey, classes), by_colour=True)
        if bits == 8:
            return as_stored  # The caller's check of the values reports the invalid ones.
        if self._always_by_colour or not used.any():
            return LabelFile(grey)
        if not self._valid[used].all():
            return as_stored
        if not self._valid[as_stored.values].all():
            return LabelFile(grey)
        ids = some(np.unique(as_stored.values).tolist())
        raise InputError.for_file(
            name,
            f"grey of {bits} bits: its pixels are either the ids {ids} or, if a program compressed the file, the grey "
            f"levels {some(used.tolist())}; {_REMEDY}",
        )

    def _read_palette(self, as_stored: LabelFile, palette: list[Colour], name: str) -> LabelFile:
        used = np.unique(as_stored.values).tolist()
        if used[-1] >= len(palette):
            raise InputError.for_file(
                name, f"damaged: pixel {used[-1]} of a palette of {len(palette)} colours"
            )
        colours = {index: palette[index] for index in used}
        distinct = all(palette.count(colour) == 1 for colour in colours.values())
        known = {index: self._colours[colour] for index, colour in colours.items() if colour in self._colours}
        moved = [index for index, label in known.items() if index != label]
        if len(known) == len(used) and not moved:
            return dataclasses.replace(as_stored, by_colour=True)
        if len(known) == len(used) and distinct:
            return LabelFile(_look_up(as_stored.values, known), by_colour=True)
        if distinct and all(red == green == blue for red, green, blue in colours.values()):
            greys = {index: colour[0] for index, colour in colours.items()}
            if all(index == grey for index, grey in greys.items()):
                return as_stored
            if self._valid[list(greys.values())].all():
                if self._valid[used].all() and set(greys.values()) <= {0, 255}:
                    levels = some(sorted(greys.values()))
                    readings = f"the ids {some(used)} or, by its palette, the grey levels {levels}"
                    raise InputError.for_file(name, f"its pixels are either {readings}; {_REMEDY}")
                return LabelFile(_look_up(as_stored.values, greys))
        if distinct and moved:
            index, colour = moved[0], colours[moved[0]]
            raise InputError.for_file(
                name,
                f"its palette gives {index} the colour {colour} of class {known[index]}, and others colours of no "
                f"class; a program may have renumbered it: {_REMEDY}",
                value=colour,
            )
        self._refuse_other_palette(colours, name)
        return as_stored

    def _refuse_other_palette(self, colours: Mapping[int, Colour], name: str) -> None:
        """Raises InputError if another file assigns a different colour to an index."""
        with self._lock:
            for index, colour in colours.items():
                other, first = self._palette.setdefault(index, (colour, name))
                if other != colour:
                    raise InputError.for_file(
                        name,
                        f"its palette gives {index} the colour {colour}, that of {first} gives it {other}: indices do "
                        f"not mean the same in all files; give the classes' colours in classes.csv, or {_REMEDY}",
                        value=colour,
                        allowed=other,
                    )

    def _read_colours(self, image: Image.Image, name: str) -> np.ndarray:
        kind = "" if image.mode in ("1", "L", "P") else f"a colour image ({image.mode}); "
        if not self._colours or (kind and image.mode not in ("RGB", "RGBA")):
            raise InputError.for_file(
                name,
                f"{kind}labels must be 8-bit single-channel or palette PNG of class ids, or RGB in the colours that "
                "classes.csv gives the classes (id,name,red,green,blue)"
                + (f"; {self._without_colours}" if self._without_colours else ""),
            )
        if image.mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255):
            raise InputError.for_file(
                name, "parts of it are transparent; save the labels as RGB without alpha"
            )
        pixels = np.asarray(image.convert("RGB")).astype(np.uint32)
        codes = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]
        found, where, counts = np.unique(codes, return_inverse=True, return_counts=True)
        colours = [(code >> 16, code >> 8 & 255, code & 255) for code in found.tolist()]
        counted = zip(colours, counts.tolist(), strict=True)
        unknown = {colour: count for colour, count in counted if colour not in self._colours}
        if unknown and not self._ignore_others:
            found_colours = some([f"{colour} (pixels: {count})" for colour, count in unknown.items()])
            raise InputError.for_file(
                name,
                f"{kind}labels must be 8-bit ids or in the classes' colours, but no class has the "
                f"colour {found_colours}; correct the file or the colours of the classes, or set "
                "dataset.options.others=ignore",
                value=unknown,
            )
        labels = np.array([self._colours.get(colour, IGNORE_LABEL) for colour in colours], np.uint8)
        return labels[where.reshape(codes.shape)]


class PublishedLabels(LabelFiles):
    """Reads a publisher's PNGs, which are grey or have a palette of the class colours.

    Args:
      mapping: The mapping from the publisher's ids to train ids.
      in_colours: Whether the palette contains the class colours, and PASCAL VOC's colour for ignored pixels.
    """

    def __init__(self, mapping: LabelMapping, *, in_colours: bool = False):
        colours = class_colours(mapping.classes, ignored=(_VOC_VOID,)) if in_colours else {}
        super().__init__({*mapping.ids, *mapping.others}, colours, always_by_colour=True)
        self._mapping = mapping

    def train_ids(self, data: bytes, name: str) -> bytes:
        """Returns a PNG of train ids, which is `data` itself if it is one already."""
        found = self.read(data, name)
        train_ids = self._mapping.to_train_ids(found.values, name)
        unchanged = found.as_stored and np.array_equal(train_ids, found.values)
        return data if unchanged else decode.encode_label(train_ids)


def class_colours(classes: Classes, ignored: Collection[Colour] = ()) -> dict[Colour, int]:
    """Returns the class of each colour, with 255 for the colours of ignored pixels; refuses two of the same colour."""
    colours: dict[Colour, int] = dict.fromkeys(ignored, IGNORE_LABEL)
    for label, colour in enumerate(classes.colours):
        if colours.get(colour, IGNORE_LABEL) != IGNORE_LABEL:
            other = classes.names[colours[colour]]
            problem = f"{classes.names[label]!r} and {other!r} have the same colour {colour}"
            raise InputError(problem, value=colour)
        colours[colour] = label
    return colours


def mat_train_ids(mapping: LabelMapping, path: Sequence[str], data: bytes, name: str) -> bytes:
    """Converts a MATLAB file of the publisher's ids to a PNG of train ids.

    Args:
      mapping: The mapping from the publisher's ids to train ids.
      path: The variable that contains the label map, followed by the fields below it if it is a struct.
      data: The encoded file.
      name: The file's name, for error messages.
    """
    import scipy.io

    try:
        value = scipy.io.loadmat(io.BytesIO(data), variable_names=[path[0]])[path[0]]
        for field in path[1:]:
            value = value[field][0, 0]
    except Exception as error:  # SciPy can raise nearly any exception on damaged files.
        reason = f"no {'.'.join(path)}" if isinstance(error, (KeyError, IndexError)) else str(error)
        problem = f"cannot be read as this data set's .mat ({one_line(reason)}); download it again"
        raise InputError.for_file(name, problem) from None
    value = np.asarray(value)
    if value.dtype.kind == "f":  # MATLAB uses floats by default.
        value = value.astype(np.int64)
    if value.ndim != 2 or value.dtype.kind not in "ui":
        raise InputError.for_file(
            name, f"{'.'.join(path)} is {value.dtype} of shape {value.shape}, not a label map"
        )
    return decode.encode_label(mapping.to_train_ids(value, name))


def _look_up(stored: np.ndarray, labels: Mapping[int, int]) -> np.ndarray:
    table = np.zeros(256, np.uint8)
    table[list(labels)] = list(labels.values())
    return table[stored]
