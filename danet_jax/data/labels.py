"""The classes of the published data sets, and the mappings from the ids in their files to train ids.

`tables/` contains each publisher's list with one row per id, and the mappings below are derived from it. An id that is
neither a class nor listed as ignored does not occur in intact files.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from danet_jax.classes import IGNORE_LABEL, Classes
from danet_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class LabelMapping:
    """Maps a publisher's ids to train ids.

    Attributes:
      classes: The classes in the order of their train ids, which are therefore consecutive from 0.
      ids: The publisher's id of each class, in the same order.
      others: The other ids that occur in the publisher's files.
      others_become: The train id of all `others`: 255 (ignore), unless they form a class.
    """

    classes: Classes
    ids: tuple[int, ...]
    others: frozenset[int]
    others_become: int = IGNORE_LABEL

    @functools.cached_property
    def _table(self) -> np.ndarray:
        """The train id of every id up to the largest, int16; -1 for ids that do not exist and as the last entry."""
        table = np.full(max(*self.ids, *self.others) + 2, -1, np.int16)
        table[sorted(self.others)] = self.others_become
        table[list(self.ids)] = np.arange(len(self.classes))
        return table

    def to_train_ids(self, ids: np.ndarray, name: str) -> np.ndarray:
        """Converts a label map `[H, W]` of the publisher's ids to train ids, uint8; refuses ids that do not exist."""
        train_ids = self._table.take(ids, mode="clip")
        unknown = (train_ids < 0) | (ids < 0)
        if unknown.any():
            value = int(ids[unknown][0])
            problem = f"label id {value} does not exist in this data set; the file is damaged, or belongs to another"
            raise InputError.for_file(name, f"{problem} data set or version", value=value)
        return train_ids.astype(np.uint8)

    def in_order_of_ids(self) -> LabelMapping:
        """Returns the same mapping with the classes numbered in ascending order of the publisher's ids."""
        rows = sorted(zip(self.ids, self.classes.names, self.classes.colours, strict=True))
        ids, names, colours = zip(*rows, strict=True)
        return dataclasses.replace(self, classes=Classes(names, colours), ids=ids)

    def to_ids(self, train_ids: np.ndarray) -> np.ndarray:
        """Converts train ids, uint8 `[H, W]`, to the publisher's ids, uint8, which test servers expect.

        Raises:
          ValueError: A value is not a class, or an id does not fit into 8 bits.
        """
        if train_ids.max(initial=0) >= len(self.ids):
            raise ValueError(f"{int(train_ids.max())} is not one of {len(self.ids)} classes")
        return np.array(self.ids, np.uint8)[train_ids]


def bit_colours(indices: Sequence[int]) -> tuple[tuple[int, int, int], ...]:
    """Returns the colours that the PASCAL VOC development kit assigns to the labels 0 to 255.

    Bits 0, 1 and 2 of a label become the highest bits of red, green and blue, bits 3, 4 and 5 the next ones, and so
    on, so that all 256 colours differ.
    """
    colours = []
    for index in indices:
        red, green, blue = (
            sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8)) for channel in range(3)
        )
        colours.append((red, green, blue))
    return tuple(colours)


def table(name: str) -> list[dict[str, str]]:
    """Returns the rows of `tables/NAME.csv`."""
    path = pathlib.Path(__file__).with_name("tables") / f"{name}.csv"
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _mapping(
    rows: Sequence[dict[str, str]], others: Iterable[int], colours: Sequence[Any] = ()
) -> LabelMapping:
    """Returns the mapping of the classes in `rows`, whose own colours are used unless `colours` is given."""
    if not colours:
        colours = [[int(row[channel]) for channel in ("red", "green", "blue")] for row in rows]
    names, ids = tuple(row["name"] for row in rows), tuple(int(row["id"]) for row in rows)
    return LabelMapping(Classes(names, tuple(colours)), ids, frozenset(others))


# Cityscapes (Cordts et al., CVPR 2016): the 19 of 35 labels that have a train id are evaluated.
_labels = table("cityscapes")
_evaluated = sorted((row for row in _labels if row["train_id"]), key=lambda row: int(row["train_id"]))
assert len(_labels) == 35
assert [int(row["train_id"]) for row in _evaluated] == list(range(19))
# The id -1 is 255 in the 8-bit files.
CITYSCAPES = _mapping(_evaluated, {int(row["id"]) % 256 for row in _labels if not row["train_id"]})

# PASCAL VOC 2012 (Everingham et al., IJCV 2010): the files contain train ids, and 255 for the void border.
PASCAL_VOC = _mapping(table("pascal_voc"), {IGNORE_LABEL}, bit_colours(range(21)))
assert PASCAL_VOC.ids == tuple(range(21))

# ADE20K scene parsing (Zhou et al., CVPR 2017): the ids are 1 to 150, and 0 for other objects. Each class has one of
# its names in the publisher's `objectInfo150`.
ADE20K = _mapping(table("ade20k"), {0})
assert ADE20K.ids == tuple(range(1, 151))

# COCO Stuff (Caesar et al., CVPR 2018): 80 thing and 91 stuff classes. COCO reserved 11 of the ids 1 to 182 and never
# used them; 0 is unlabelled. The publisher's colours are a random permutation made by MATLAB; these are all different.
_drawn = [row for row in table("coco_stuff") if row["drawn"] == "yes"]
COCO_STUFF = _mapping(_drawn, {0}, bit_colours([int(row["id"]) for row in _drawn]))
assert len(COCO_STUFF.ids) == 171
COCO_STUFF_PNG = LabelMapping(
    COCO_STUFF.classes, tuple(i - 1 for i in COCO_STUFF.ids), frozenset({IGNORE_LABEL})
)
"""The PNGs of COCO Stuff 164k number the classes from 0 and contain 255 where nothing is labelled."""

# PASCAL Context (Mottaghi et al., CVPR 2014): the 59 most frequent of 459 categories, in the order of the publisher's
# list of 59, with the ids of the `.mat` files. The publisher defined no colours; like mmsegmentation, we use the first
# 60 of ADE20K for the background and the 59 classes.
PASCAL_CONTEXT_TABLE = table("pascal_context")
_context = tuple(int(row["id"]) for row in PASCAL_CONTEXT_TABLE)
_rest = frozenset(range(460)) - set(_context)
_colours = ADE20K.classes.colours[:60]
assert len(set(_context)) == 59
assert len(_rest) == 401
PASCAL_CONTEXT_59 = _mapping(PASCAL_CONTEXT_TABLE, _rest, _colours[1:])
"""The 59 classes; everything else, including unlabelled pixels, is ignored."""
PASCAL_CONTEXT_60 = LabelMapping(
    classes=Classes(("background", *PASCAL_CONTEXT_59.classes.names), _colours),
    ids=(0, *_context),
    others=_rest - {0},
    others_become=0,
)
"""The 59 classes and, for everything else, the class `background`."""
PASCAL_CONTEXT_PNG_59 = LabelMapping(
    classes=PASCAL_CONTEXT_59.classes,
    ids=tuple(sorted(_context).index(category) + 1 for category in _context),
    others=frozenset({0, IGNORE_LABEL}),
)
"""The PNGs of mmsegmentation: 1 to 59 in the order of the category ids, and 0 for everything else."""
PASCAL_CONTEXT_PNG_60 = LabelMapping(
    classes=PASCAL_CONTEXT_60.classes, ids=(0, *PASCAL_CONTEXT_PNG_59.ids), others=frozenset({IGNORE_LABEL})
)
"""The PNGs of mmsegmentation with everything else as the class `background`."""
