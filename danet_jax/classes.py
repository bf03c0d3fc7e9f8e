"""The classes of a label map: their names and colours."""

from __future__ import annotations

import colorsys
import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from danet_jax.errors import InputError

IGNORE_LABEL = 255
"""The label, on disk and in memory, of a pixel that belongs to no class and is not counted."""

MAX_CLASSES = 255
"""Labels are 8-bit and 255 is `IGNORE_LABEL`."""


@dataclasses.dataclass(frozen=True)
class Classes:
    """Names and RGB colours (0 to 255) of the classes, in the order of their label values."""

    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        """Raises InputError: names or colours are not such, or do not fit each other."""
        for key in ("names", "colours"):
            value = getattr(self, key)
            if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
                raise InputError(f"{key}={value!r} must be a sequence, one of each class")
        names = tuple(self.names)
        colours = tuple(tuple(colour) if isinstance(colour, Iterable) else colour for colour in self.colours)
        object.__setattr__(self, "names", names)
        if len(names) != len(colours):
            raise InputError(f"{len(names)} class names but {len(colours)} colours; give one of each class")
        if not 1 <= len(names) <= MAX_CLASSES:
            raise InputError(f"there can be 1 to {MAX_CLASSES} classes, not {len(names)}")
        for name in names:
            if not isinstance(name, str) or not name.strip():
                raise InputError(f"class name {name!r} must be text")
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise InputError(f"class names given more than once: {', '.join(repeated)}")
        for name, colour in zip(names, colours, strict=True):
            numbers = colour if isinstance(colour, tuple) and len(colour) == 3 else (None,)
            if not all(isinstance(n, (int, np.integer)) and 0 <= n <= 255 for n in numbers):
                raise InputError(
                    f"colour {colour!r} of {name} must be red, green, blue, whole numbers of 0 to 255"
                )
        object.__setattr__(self, "colours", tuple(tuple(int(n) for n in colour) for colour in colours))

    @classmethod
    def named(cls, names: Sequence[str]) -> Classes:
        """Classes with well-separated colours chosen here, for data that brings none.

        Raises:
          InputError: `names` are not 1 to 255 different names.
        """
        if isinstance(names, (str, bytes)) or not isinstance(names, Iterable):
            raise InputError(f"names={names!r} must be a sequence of names")
        names = tuple(names)
        golden = 0.618033988749895
        colours = []
        for index in range(len(names)):
            red, green, blue = colorsys.hsv_to_rgb(
                (index * golden) % 1.0, (0.85, 0.6)[index % 2], (0.95, 0.7)[index // 2 % 2]
            )
            colours.append((round(255 * red), round(255 * green), round(255 * blue)))
        return cls(names, tuple(colours))

    def __len__(self) -> int:
        return len(self.names)

    def mirrored(self, pairs: Sequence[str]) -> tuple[int, ...]:
        """Return the class that a mirror makes of each.

        Args:
          pairs: Two classes each, `left lane=right lane`, that it makes of each other.

        Raises:
          InputError: There is no class of a name, or it is in two pairs.
        """
        table = list(range(len(self)))
        for pair in pairs:
            sides = [name.strip() for name in pair.split("=")]
            for name in sides:
                if name not in self.names:
                    raise InputError(
                        f"config.dataset.flip_pairs: no class {name!r}; there are: {', '.join(self.names)}"
                    )
            left, right = (self.names.index(name) for name in sides)
            if left == right or table[left] != left or table[right] != right:
                raise InputError(f"config.dataset.flip_pairs: {pair!r} pairs a class twice")
            table[left], table[right] = right, left
        return tuple(table)

    def palette(self) -> np.ndarray:
        """Colours of all 256 labels, uint8 `[256, 3]` RGB; what is no class is black."""
        palette = np.zeros((256, 3), np.uint8)
        palette[: len(self)] = self.colours
        return palette
