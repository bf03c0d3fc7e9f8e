"""A user's own images and label maps below one folder, in the layouts of `own_layouts`.

Classes are named by `classes.csv` (id,name,red,green,blue), `labelmap.txt`, `class_names.txt`, the `names` of a
`data.yaml`, or the recipe. Labels are PNG of class ids, or drawn in the classes' colours.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from danet_jax.classes import IGNORE_LABEL, Classes
from danet_jax.data import decode
from danet_jax.data.builders import base, class_list, label_files, own_layouts
from danet_jax.data.builders.entries import Entry
from danet_jax.data.builders.pair import (
    LABELS_FOLLOW,
    STORED,
    Missing,
    Pair,
    PairReader,
    Reader,
    turned_upright,
)
from danet_jax.data.builders.state import SourceFiles, fingerprint
from danet_jax.errors import InputError

OPTIONS: dict[str, Any] = {
    "labels": label_files.AUTO,
    "others": "refuse",
    "ignore_label": IGNORE_LABEL,
    "label_offset": 0,
    "exif": STORED,
    "bits": 16,
    "validation": 0.0,
    "split_seed": 0,
    "masks_dir": "",
    "uncompressed": False,
}
_IN_TRAIN = "are in train, too: scores on them say nothing about new images"
_CHOICES = {"labels": label_files.READ_BY, "others": ("refuse", "ignore"), "exif": LABELS_FOLLOW}
_RANGES = {"ignore_label": (-1, 255), "label_offset": (0, 255), "bits": (8, 16), "validation": (0, 0.99)}


class Folder(base.PairsBuilder):
    """The images and label maps below `root`, prepared again when the content of a file there changes."""

    VERSION = tfds.core.Version("1.1.0")
    name = "folder"

    def __init__(
        self,
        *,
        data_dir: str | pathlib.Path,
        root: str | pathlib.Path | None = None,
        class_names: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
    ):
        """Lists the files, and reads those whose content is not known yet.

        Args:
          data_dir: The directory of all prepared data.
          root: The folder that holds the images and labels, or its `data.yaml`.
          class_names: The classes in the order of their ids; if empty, a file below `root` names them.
          options: `labels`: whether label files are read by their `ids` (the pixels' values, or indices of a palette)
            or by their `colours`; `auto` does what `label_files` says. `others`: whether colours of no class are
            a mistake (`refuse`) or 255 (`ignore`). `ignore_label`: the id that is ignored, -1 if none is.
            `label_offset`: the id of the first class; what is below is ignored. `exif`: whether labels were drawn on
            the pixels as `stored`, or on the `upright` image that viewers show. `bits`: how many bits of 16-bit
            images are used. `validation`: the share of the images that becomes the split `val`, drawn at random
            by `split_seed`. `masks_dir`: the folder of the labels, where it has another name.
            `uncompressed`: whether images are stored without compression.

        Raises:
          InputError: The folder, a split or the classes are missing, or an option makes no sense.
        """
        self._options = base.checked_options("folder", options, OPTIONS)
        _check_options(self._options)
        if not root:
            raise InputError(
                "dataset.root: name the folder that holds images/SPLIT and labels/SPLIT", what="dataset.root"
            )
        self._root = pathlib.Path(root)
        splits = own_layouts.find_splits(self._root, self._options["masks_dir"])
        self._splits = own_layouts.divided(
            splits, self._options["validation"], self._options["split_seed"], self._root
        )
        self._trained_on = {
            entry.image
            for split, entries in self._splits.items()
            for entry in entries
            if split.startswith("train")
        }
        listed = _classes(self._root, tuple(class_names), self._options)
        self._table = _table(listed.classes, self._options)
        colours, unusable = _colours(
            self._root, listed, needed=self._options["labels"] == label_files.COLOURS
        )
        sources = SourceFiles(data_dir, self.name, self._root)
        content, former = self._source_states(sources)
        place = str(self._root.resolve())
        changed = {key: value for key, value in self._options.items() if value != OPTIONS[key]}
        images = [entry.image for entries in self._splits.values() for entry in entries if entry.image]
        if any(image.suffix.lower() in (".tif", ".tiff") for image in images):
            changed["tiff"] = "read by tifffile"  # version 0.2.0 prepared other pixels of some
        told = fingerprint_of_classes(listed)
        super().__init__(
            data_dir=data_dir,
            variant=f"{sources.stem}-{fingerprint(place, content, told, changed)}",
            former=f"{sources.stem}-{fingerprint(place, former, told, changed)}",
            sources=sources,
            classes=listed.classes,
            uncompressed=self._options["uncompressed"],
        )
        self._labels = label_files.LabelFiles(
            np.flatnonzero(self._table >= 0).tolist(),
            colours,
            read_by=self._options["labels"],
            ignore_others=self._options["others"] == "ignore",
            palettes=self.palettes,
            without_colours=unusable,
        )

    def _source_states(self, sources: SourceFiles) -> tuple[Any, Any]:
        """The content of all files by split and name, and their sizes and times, which version 0.2.0 compared."""
        listed = [
            (split, entry.name, entry.image, entry.label)
            for split, entries in self._splits.items()
            for entry in entries
        ]
        digests = sources.digests(path for *_, image, label in listed for path in (image, label) if path)
        content = [(s, name, *(p and digests[p] for p in pair)) for s, name, *pair in listed]
        return content, [
            (s, name, *(p and sources.size_and_time(p) for p in pair)) for s, name, *pair in listed
        ]

    def pairs(self) -> dict[str, list[PairReader]]:
        """Returns readers of the files found."""
        return {
            split: [self._reader(split, entry) for entry in entries]
            for split, entries in self._splits.items()
        }

    def _reader(self, split: str, entry: Entry) -> PairReader:
        if entry.image is None:
            reason = f"label without image; expected {entry.expected}.jpg, .jpeg or .png"
            return Missing(InputError(f"{entry.label}: {reason}", what=str(entry.label)), of_image=True)
        if entry.label is None and not entry.unlabelled:
            reason = f"image without label; expected {entry.expected}.png"
            return Missing(InputError(f"{entry.image}: {reason}", what=str(entry.image)))
        size = entry.image.stat().st_size + (entry.label.stat().st_size if entry.label else 0)
        seen = not split.startswith("train") and entry.image in self._trained_on
        return Reader(functools.partial(self._read, entry, (_IN_TRAIN,) if seen else ()), size)

    def _read(self, entry: Entry, assumed: tuple[str, ...]) -> Pair:
        image, label = entry.image, entry.label
        assert image is not None  # else there is no reader
        try:
            data, label_data = image.read_bytes(), label.read_bytes() if label else None
        except OSError as error:
            raise InputError(
                f"{error.filename}: cannot be read ({error.strerror})", what=str(error.filename)
            ) from None
        assumed = (
            *assumed,
            *(f"have {remark}" for remark in decode.remarks(data, str(image), self._options["bits"])),
        )
        if label_data is not None:
            turned, of_image = decode.orientation(label_data), decode.orientation(data)
            if turned not in (1, of_image):
                raise InputError(
                    f"{label}: its EXIF orientation is {turned} and that of its image {of_image}, so how it lies is "
                    "unknown; save it without EXIF",
                    what=str(label),
                    value=turned,
                    allowed=of_image,
                )
            label_data = self._train_ids(label_data, str(label))
        pair = Pair(entry.name, data, label_data, str(image), str(label or ""), assumed)
        bits = self._options["bits"]
        pair = turned_upright(pair, self._options["exif"], bits)
        if bits != 16 and pair.image is data and decode.has_sixteen_bits(data, str(image)):
            data = decode.encode_image(decode.decode_image(data, str(image), bits=bits))
            pair = dataclasses.replace(pair, image=data)
        return pair

    def _train_ids(self, data: bytes, name: str) -> bytes:
        """A plain 8-bit grey PNG of train ids, which every reader understands; `data` itself if it is one."""
        read = self._labels.read(data, name)
        values = read.values
        if not read.by_colour:
            values = self._table[values]
            if values.min() < 0:
                counts = np.bincount(read.values[values < 0])
                strange = np.flatnonzero(counts)
                offset, last = self._options["label_offset"], len(self.classes) - 1
                raise InputError(
                    f"{name}: label value {strange[0]} ({counts[strange[0]]} pixels) is neither a class "
                    f"({offset} to {offset + last}) nor {self._options['ignore_label']} (ignore)"
                    + (f"; so are {strange[1:6].tolist()}" if len(strange) > 1 else "")
                    + "; correct the label or the list of classes",
                    what=name,
                    value=int(strange[0]),
                    allowed=range(offset, offset + last + 1),
                )
            values = values.astype(np.uint8)
        if read.as_stored and decode.is_plain_label(data) and np.array_equal(values, read.values):
            return data
        return decode.encode_label(values)


def fingerprint_of_classes(listed: class_list.ClassList) -> Any:
    """Returns the parts of a list of classes that determine what is prepared."""
    return listed.classes.names, listed.classes.colours, listed.ignored


def _check_options(options: Mapping[str, Any]) -> None:
    for key, choices in _CHOICES.items():
        if options[key] not in choices:
            raise InputError(
                f"dataset.options.{key}={options[key]!r} must be one of {', '.join(choices)}",
                what=f"dataset.options.{key}",
                value=options[key],
                allowed=choices,
            )
    for key, (low, high) in _RANGES.items():
        if not low <= options[key] <= high:
            raise InputError(
                f"dataset.options.{key}={options[key]} must be from {low} to {high}",
                what=f"dataset.options.{key}",
                value=options[key],
                allowed=(low, high),
            )


def _table(classes: Classes, options: Mapping[str, Any]) -> np.ndarray:
    """The train id of every id, int16 `[256]`; -1 for ids that do not exist."""
    offset, ignore = options["label_offset"], options["ignore_label"]
    if offset + len(classes) > 256:
        raise InputError(
            f"dataset.options.label_offset={offset}: then {len(classes)} classes end beyond 255",
            what="dataset.options.label_offset",
            value=offset,
        )
    if offset <= ignore < offset + len(classes):
        raise InputError(
            f"dataset.options.ignore_label={ignore} is the id of the class {classes.names[ignore - offset]!r}; if ids "
            f"of classes begin behind it, set dataset.options.label_offset={ignore + 1}",
            what="dataset.options.ignore_label",
            value=ignore,
        )
    table = np.full(256, -1, np.int16)
    table[:offset] = IGNORE_LABEL
    table[offset : offset + len(classes)] = np.arange(len(classes))
    if ignore >= 0:
        table[ignore] = IGNORE_LABEL
    return table


def _colours(root: pathlib.Path, listed: class_list.ClassList, *, needed: bool) -> tuple[Any, str]:
    """The labels of the classes' colours, and why there are none."""
    try:
        colours = label_files.class_colours(listed.classes, listed.ignored) if listed.coloured else {}
    except InputError as error:
        if needed:
            raise error.in_file(str(own_layouts.class_file(root))) from None
        return {}, str(error)
    if needed and not colours:
        raise InputError(
            "dataset.options.labels=colours: the classes have no colours; give them in classes.csv "
            "(id,name,red,green,blue)",
            what="dataset.options.labels",
            value="colours",
        )
    return colours, ""


def _classes(
    root: pathlib.Path, class_names: tuple[str, ...], options: Mapping[str, Any]
) -> class_list.ClassList:
    """Returns the classes named in the recipe or in a file below `root`."""
    if class_names:
        return class_list.named(class_names, "dataset.class_names")
    if not root.exists():
        raise InputError(
            f"{root}: no such folder; set dataset.root to the one that holds images/ and labels/",
            what=str(root),
        )
    path = own_layouts.class_file(root)
    if path is None:
        raise InputError(
            f"{root / 'classes.csv'}: missing; write it (id,name,red,green,blue) or set dataset.class_names",
            what=str(root / "classes.csv"),
        )
    return class_list.read_classes(
        path, first_id=options["label_offset"], ignore_label=options["ignore_label"]
    )
