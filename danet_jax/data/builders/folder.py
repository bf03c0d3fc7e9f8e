"""A user's own images and labels below one folder, in the layouts of `own_layouts`.

The names of the classes come from `classes.csv` (id,name,red,green,blue), `labelmap.txt`, `class_names.txt`, the
`names` of a `data.yaml`, the recipe, or the annotations. Labels are PNG of class ids, PNG in the colours of the
classes, or shapes.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from danet_jax.classes import IGNORE_LABEL, Classes
from danet_jax.data import decode
from danet_jax.data.builders import base, class_list, label_files, own_layouts
from danet_jax.data.builders.entries import Entry
from danet_jax.data.builders.pair import STORED, UPRIGHT, Missing, Pair, PairReader, Reader, turn_upright
from danet_jax.data.builders.shapes import Drawing, draw
from danet_jax.data.builders.state import SourceFiles, fingerprint
from danet_jax.data.files import option_error
from danet_jax.data.inspection import label_error
from danet_jax.data.summary import Summary
from danet_jax.errors import InputError

BACKGROUND = "background"
_IN_TRAIN = "are in train, too: scores on them say nothing about new images"


class Folder(base.PairsBuilder):
    """The images and label maps below `root`, which are prepared again when the content of a file changes.

    `root` may also be the `data.yaml` in the folder. If no `class_names` are given, a file below `root` names them.

    The options are: `labels`: whether label files are read by `ids` (pixel values or palette indices) or by `colours`;
    `auto` follows the rules of `label_files`. `others`: whether colours that belong to no class are an error (`refuse`)
    or become 255 (`ignore`). `ignore_label`: the id that is ignored, or -1 for none. `label_offset`: the id of the
    first class; lower ids are ignored. `exif`: whether labels were drawn on the pixels as `stored` or on the `upright`
    image that viewers show. `bits`: the number of bits that are used in 16-bit channels; if images have such channels,
    the network takes images of `bits` bits. `validation`: the fraction of the images that becomes the split `val`,
    drawn at random with the seed `split_seed`. `masks_dir`: the folder of the labels, if it does not have a usual name.
    `unlabelled`: whether pixels that no shape covers belong to the class `background`, which is added as class 0, or
    become 255 (`ignore`).
    """

    VERSION = tfds.core.Version("1.1.0")
    ALLOWED: ClassVar = {
        "labels": label_files.READ_BY,
        "others": ("refuse", "ignore"),
        "ignore_label": (-1, 255),
        "label_offset": (0, 255),
        "exif": (STORED, UPRIGHT),
        "bits": (8, 16),
        "validation": (0, 0.99),
        "unlabelled": (BACKGROUND, "ignore"),
    }
    name = "folder"
    defaults: ClassVar = {
        "labels": label_files.AUTO,
        "others": "refuse",
        "ignore_label": IGNORE_LABEL,
        "label_offset": 0,
        "exif": STORED,
        "bits": 16,
        "validation": 0.0,
        "split_seed": 0,
        "masks_dir": "",
        "unlabelled": BACKGROUND,
        "uncompressed": False,
    }

    def configure(
        self, data_dir: pathlib.Path, root: str | pathlib.Path | None, class_names: tuple[str, ...]
    ) -> base.Preparation:
        """Lists the files, reads those whose content is not known yet, and reads the classes."""
        options = self.options
        if not root:
            problem = "must be the folder that contains images/SPLIT and labels/SPLIT"
            raise option_error("root", root or "", problem)
        root = pathlib.Path(root)
        splits, names = own_layouts.find_splits(root, options["masks_dir"])
        self._splits = own_layouts.divide_splits(splits, options["validation"], options["split_seed"], root)
        labelled = [entry for entries in self._splits.values() for entry in entries if not entry.unlabelled]
        drawn = [entry for entry in labelled if entry.drawing]
        pixels = [entry.label for entry in labelled if entry.label and not entry.drawing]
        if drawn and pixels:
            kinds = f"label maps such as {pixels[0]} and shapes such as {drawn[0].label}"
            raise InputError.for_file(root, f"contains {kinds}; remove one of the two kinds")
        if not drawn and options["unlabelled"] != BACKGROUND:
            problem = "only labels that are shapes leave pixels unlabelled"
            raise option_error("options.unlabelled", options["unlabelled"], problem)
        listed, indices = _read_classes(root, class_names, options, drawn, names)
        self._table = _train_id_table(listed.classes, options)
        colours, unusable = _label_colours(root, listed, needed=options["labels"] == label_files.COLOURS)
        self._labels = label_files.LabelFiles(
            np.flatnonzero(self._table >= 0).tolist(),
            colours,
            read_by=options["labels"],
            ignore_others=options["others"] == "ignore",
            without_colours=unusable,
        )
        ids = {name: number for number, name in enumerate(listed.classes.names)}
        by_index = {index: ids[name] for index, name in enumerate(indices) if name in ids}
        self._ids: dict[Any, int] = {"__ignore__": IGNORE_LABEL, **ids, **by_index}
        self._background = next(map(ids.__getitem__, filter(class_list.is_background, ids)), IGNORE_LABEL)
        self._largest: dict[str, int] = {}  # The largest value in each image of 16 bits.

        changed: dict[str, Any] = {
            key: value for key, value in options.items() if value != self.defaults[key]
        }
        images = [entry.image for entries in self._splits.values() for entry in entries if entry.image]
        if any(image.suffix.lower() in (".tif", ".tiff") for image in images):
            changed["tiff"] = "read by tifffile"  # Version 0.2.0 decoded some TIFFs differently.
        if 8 < options["bits"] < 16:
            changed["depth"] = "kept"  # Version 0.2.0 prepared images of 8 bits.
        if drawn:
            changed["shapes"] = 1, indices  # Increase the number when shapes are drawn differently.
        sources = SourceFiles(data_dir, self.name, root)
        of_classes = listed.classes.names, listed.classes.colours, listed.ignored
        variant, former = (
            f"{sources.stem}-{fingerprint(str(root.resolve()), state, of_classes, changed)}"
            for state in self._source_states(sources)
        )
        return base.Preparation(variant, listed.classes, sources, former, options["bits"])

    def split_error(self, split: str, summary: Summary) -> InputError | None:
        """Refuses 16-bit images that leave most of their range unused, and masks of 0 and 255 that are ambiguous."""
        file = max(self._largest, key=self._largest.__getitem__, default="")
        largest = self._largest.get(file, 0)
        if self.bits == 16 and 0 < largest < decode.SMALLEST_RANGE:
            fitting = max(8, largest.bit_length() + largest.bit_length() % 2)
            return InputError.for_file(
                file,
                f"no image has a larger value than {largest}, though 16 bits allow 65535; set dataset.options.bits to "
                f"the bits that are used, such as {fitting}",
                value=largest,
            )
        drawn = any(entry.drawing for entry in self._splits[split])
        binary = len(self.classes) == 2 and np.flatnonzero(summary.present).tolist() == [0, IGNORE_LABEL]
        if drawn or not binary or self.options["labels"] != label_files.AUTO:
            return None
        return InputError.for_file(
            self.name,
            f"the labels of {split} contain only 0 and 255; if 255 is {self.classes.names[1]!r}, set "
            "dataset.options.labels=colours, and if it is ignored, dataset.options.labels=ids",
        )

    def _source_states(self, sources: SourceFiles) -> tuple[Any, Any]:
        """Returns the digests of all files by split and name, and their sizes and times for comparison with 0.2.0."""
        entries = [(split, entry) for split, entries in self._splits.items() for entry in entries]
        paths = [path for _, entry in entries for path in (entry.image, entry.label) if path]
        digests = sources.digests(dict.fromkeys(paths))
        content, former = [], []
        for split, entry in entries:
            pair = entry.image, entry.label
            content.append((split, entry.name, *(path and digests[path] for path in pair)))
            former.append((split, entry.name, *(path and sources.size_and_time(path) for path in pair)))
        return content, former

    def pairs(self) -> dict[str, list[PairReader]]:
        """Returns the readers of the examples that were found."""
        trained_on = {
            entry.image
            for split, entries in self._splits.items()
            for entry in entries
            if split.startswith("train")
        }
        return {
            split: [self._reader(entry, () if split.startswith("train") else trained_on) for entry in entries]
            for split, entries in self._splits.items()
        }

    def _reader(self, entry: Entry, trained_on: Collection[pathlib.Path | None]) -> PairReader:
        if entry.image is None:
            problem = f"label without image; expected {entry.expected}.jpg, .jpeg or .png"
            return Missing(InputError.for_file(str(entry.label), problem), of_image=True)
        if entry.label is None and not entry.unlabelled and not entry.drawing:
            problem = f"image without label; expected {entry.expected}.png, .txt or .json"
            return Missing(InputError.for_file(entry.image, problem))
        label = None if entry.drawing else entry.label  # Files of shapes are small or describe many images.
        size = sum(path.stat().st_size for path in (entry.image, label) if path)
        assumed = (_IN_TRAIN,) if entry.image in trained_on else ()
        return Reader(functools.partial(self._read, entry, entry.image, assumed), size)

    def _read(self, entry: Entry, path: pathlib.Path, assumed: tuple[str, ...]) -> Pair:
        image, label = str(path), str(entry.label or "")
        data, label_data, follow, decoded = _read_file(path), None, self.options["exif"], None
        if deep := decode.is_deep(data, image):
            decoded = decode.decode_image(data, image, bits=self.bits, depth=self.bits)
            self._largest[image] = int(decoded.max())
        assumed += tuple(f"have {remark}" for remark in decode.remarks(data, image, self.bits, decoded))
        if entry.drawing and not entry.unlabelled:
            label_data, follow, remarks = self._draw(entry.drawing(), data, image, label)
            assumed += remarks
        elif entry.label:
            label_data = _read_file(entry.label)
            of_label, of_image = decode.orientation(label_data), decode.orientation(data)
            if of_label not in (1, of_image):
                problem = f"its EXIF orientation is {of_label}, but that of its image is {of_image}"
                raise InputError.for_file(
                    label, f"{problem}; save it without EXIF", value=of_label, allowed=of_image
                )
            label_data = self._train_ids(label_data, label)
        pair = Pair(entry.name, data, label_data, image, label, assumed, self.bits, decoded)
        pair = turn_upright(pair, follow, certain=entry.drawing is not None)
        if deep and self.bits == 8 and pair.image is data:  # Nothing is lost.
            pair = dataclasses.replace(pair, image=decode.encode_image(pair.pixels()))
        return pair

    def _draw(
        self, drawing: Drawing, data: bytes, image: str, label: str
    ) -> tuple[bytes, str, tuple[str, ...]]:
        """Draws the shapes of an image and returns the label map as PNG, the pixels that it follows, and remarks."""
        stored = decode.image_size(data, image)
        upright = stored[::-1] if decode.orientation(data) > 4 else stored  # Annotation tools show this.
        size = drawing.size or upright
        if size not in (stored, upright):
            problem = f"describes {image} as {size[1]}x{size[0]}, but it is {upright[1]}x{upright[0]}"
            raise InputError.for_file(label, problem, value=size, allowed=upright)
        if self.options["unlabelled"] == "ignore":
            outside, remark = IGNORE_LABEL, "are ignored"
        else:
            outside = self._background
            remark = f"are {self.classes.names[outside]!r} (dataset.options.unlabelled=ignore ignores them)"
        try:
            values = draw(drawing, size, self._ids, outside)
        except InputError as error:
            problem = f"{image}: {error.args[0]}"
            raise InputError.for_file(label, problem, value=error.value, allowed=error.allowed) from None
        remark = f"have shapes as labels, and pixels outside them {remark}"
        remarks = (remark, drawing.remark) if drawing.remark else (remark,)
        return decode.encode_label(values), UPRIGHT if size == upright else STORED, remarks

    def _train_ids(self, data: bytes, name: str) -> bytes:
        """Returns a plain 8-bit grey PNG of train ids, which is `data` itself if it is one already."""
        read = self._labels.read(data, name)
        values = read.values
        if not read.by_colour:
            values = self._table[values]
            if values.min() < 0:
                first = self.options["label_offset"]
                allowed = range(first, first + len(self.classes))
                counts = np.bincount(read.values[values < 0])
                raise label_error(name, counts, allowed, self.options["ignore_label"])
            values = values.astype(np.uint8)
        if read.as_stored and decode.is_plain_label(data) and np.array_equal(values, read.values):
            return data
        return decode.encode_label(values)


def _train_id_table(classes: Classes, options: Mapping[str, Any]) -> np.ndarray:
    """Returns the train id of every id, int16 `[256]`; -1 for ids that do not exist."""
    offset, ignore = options["label_offset"], options["ignore_label"]
    if offset + len(classes) > 256:
        problem = f"the ids of {len(classes)} classes would end beyond 255"
        raise option_error("options.label_offset", offset, problem)
    if offset <= ignore < offset + len(classes):
        name, remedy = classes.names[ignore - offset], f"set dataset.options.label_offset={ignore + 1}"
        problem = f"this is the id of the class {name!r}; if the ids of classes begin after it, {remedy}"
        raise option_error("options.ignore_label", ignore, problem)
    table = np.full(256, -1, np.int16)
    table[:offset] = IGNORE_LABEL
    table[offset : offset + len(classes)] = np.arange(len(classes))
    if ignore >= 0:
        table[ignore] = IGNORE_LABEL
    return table


def _label_colours(root: pathlib.Path, listed: class_list.ClassList, *, needed: bool) -> tuple[Any, str]:
    """Returns the label of each class colour, and the reason why there are none, if any."""
    try:
        colours = label_files.class_colours(listed.classes, listed.ignored) if listed.coloured else {}
    except InputError as error:
        if needed:
            raise error.in_file(str(own_layouts.find_class_file(root))) from None
        return {}, str(error)
    if needed and not colours:
        if len(listed.classes) == 2:
            return {(0, 0, 0): 0, (255, 255, 255): 1}, ""
        problem = "the classes have no colours; give them in classes.csv (id,name,red,green,blue)"
        raise option_error("options.labels", label_files.COLOURS, problem)
    return colours, ""


def _read_classes(
    root: pathlib.Path,
    class_names: tuple[str, ...],
    options: Mapping[str, Any],
    drawn: Sequence[Entry],
    annotated: Sequence[str],
) -> tuple[class_list.ClassList, tuple[str, ...]]:
    """Returns the classes, and their names in the order in which YOLO's files number them.

    The names come from the recipe (`class_names`), a file, the annotations (`annotated`) or the shapes (`drawn`).
    """
    path = own_layouts.find_class_file(root)
    source: pathlib.Path | str = "dataset.class_names" if class_names else path or root / "classes.csv"
    if class_names:
        listed = class_list.list_names(class_names, str(source))
    elif path:
        first_id, ignore_label = options["label_offset"], options["ignore_label"]
        listed = class_list.read_classes(path, first_id=first_id, ignore_label=ignore_label)
    else:
        drawings = [entry.drawing() for entry in drawn if entry.drawing and not annotated]
        used = {shape.name for drawing in drawings for shape in drawing.shapes if isinstance(shape.name, str)}
        names = list(annotated) or sorted(used - {"__ignore__"})
        if not names:
            raise InputError.for_file(
                source, "missing; write it (id,name,red,green,blue) or set dataset.class_names"
            )
        listed = class_list.list_names(names, str(root))
    data_yaml = root if root.is_file() else root / "data.yaml"
    indices = (
        class_list.read_classes(data_yaml).classes.names if data_yaml.is_file() else listed.classes.names
    )
    if drawn and options["unlabelled"] == BACKGROUND:
        listed = class_list.add_background(listed)
    if len(listed.classes) == 1:
        problem = f"{listed.classes.names[0]!r} is the only class, so that any network scores 100 %"
        raise InputError.for_file(source, f"{problem}; add one for everything else, such as background")
    return listed, indices


def _read_file(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError.for_file(path, f"cannot be read ({error.strerror})") from None
