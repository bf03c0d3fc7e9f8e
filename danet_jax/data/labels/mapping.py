"""Between the ids that a publisher draws and train ids: the mapping that a class table implies."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from danet_jax.classes import IGNORE_LABEL, Classes
from danet_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class LabelMapping:
    """Which class each of a publisher's ids is.

    Attributes:
      classes: The classes in the order of their train ids, which are therefore 0, 1, ... without a gap.
      ids: The publisher's id of each class, in the same order.
      others: The ids that the publisher also draws. Any id that is in neither is an error in the data.
      others_become: The train id of all `others`; 255, ignore, unless a class collects them.
    """

    classes: Classes
    ids: tuple[int, ...]
    others: frozenset[int]
    others_become: int = IGNORE_LABEL

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.classes):
            raise ValueError(f"{len(self.ids)} ids for {len(self.classes)} classes")
        known = [*self.ids, *self.others]
        if len(set(known)) != len(known):
            raise ValueError("an id stands for two things")
        if min(known) < 0:
            raise ValueError("ids count from 0")

    @functools.cached_property
    def _table(self) -> np.ndarray:
        """Train id of every id up to the largest, int16, -1 where an id does not exist."""
        table = np.full(max(*self.ids, *self.others) + 1, -1, np.int16)
        table[sorted(self.others)] = self.others_become
        table[list(self.ids)] = np.arange(len(self.ids))
        return table

    def to_train_ids(self, ids: np.ndarray, name: str) -> np.ndarray:
        """Return the train ids of a label map of the publisher's ids.

        Args:
          ids: Integers `[H, W]`.
          name: The file's name, for the error message.

        Returns:
          uint8 `[H, W]`: train ids, and `others_become` for the others.

        Raises:
          InputError: An id does not exist in this dataset.
        """
        table = self._table
        largest, smallest = int(ids.max(initial=0)), int(ids.min(initial=0))
        if largest >= len(table) or smallest < 0:
            strange = largest if largest >= len(table) else smallest
            raise InputError(f"{name}: {_NO_SUCH_ID.format(strange)}")
        train_ids = table[ids]
        if train_ids.min(initial=0) < 0:
            raise InputError(f"{name}: {_NO_SUCH_ID.format(int(ids[train_ids < 0][0]))}")
        return train_ids.astype(np.uint8)

    def in_order_of_ids(self) -> LabelMapping:
        """Return the same mapping with classes numbered by the publisher's ids, lowest first."""
        rows = sorted(zip(self.ids, self.classes.names, self.classes.colours, strict=True))
        ids, names, colours = zip(*rows, strict=True)
        return dataclasses.replace(self, classes=Classes(names, colours), ids=ids)

    def to_ids(self, train_ids: np.ndarray) -> np.ndarray:
        """Return the publisher's ids of train ids, as test servers want them.

        Args:
          train_ids: uint8 `[H, W]`, every value a class.

        Returns:
          uint8 `[H, W]`.

        Raises:
          ValueError: A value is no class, or an id does not fit 8 bits.
        """
        if train_ids.max(initial=0) >= len(self.ids):
            raise ValueError(f"{int(train_ids.max())} is not one of {len(self.ids)} classes")
        return np.array(self.ids, np.uint8)[train_ids]


_NO_SUCH_ID = (
    "label id {} does not exist in this dataset; the file is damaged or of another dataset or version"
)


def bit_colours(indices: range | tuple[int, ...]) -> tuple[tuple[int, int, int], ...]:
    """Return the colours that the PASCAL VOC development kit gives to labels.

    Bits 0, 1, 2 of the index become the highest bits of red, green and blue, bits 3, 4, 5 the next ones and
    so on, so that all 256 differ.

    Args:
      indices: Labels, 0 to 255.
    """
    colours = []
    for index in indices:
        red, green, blue = (
            sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8)) for channel in range(3)
        )
        colours.append((red, green, blue))
    return tuple(colours)
