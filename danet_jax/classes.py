"""The classes of a label map: their names and colours."""

from __future__ import annotations

import colorsys
import dataclasses
from collections.abc import Sequence

import numpy as np

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
        if len(self.names) != len(self.colours):
            raise ValueError(f"{len(self.names)} class names but {len(self.colours)} colours")
        if not 1 <= len(self.names) <= MAX_CLASSES:
            raise ValueError(f"there can be 1 to {MAX_CLASSES} classes, not {len(self.names)}")
        repeated = sorted({name for name in self.names if self.names.count(name) > 1})
        if repeated:
            raise ValueError(f"class names given more than once: {', '.join(repeated)}")

    @classmethod
    def named(cls, names: Sequence[str]) -> Classes:
        """Classes with well-separated colours chosen here, for data that brings none."""
        golden = 0.618033988749895
        colours = []
        for index in range(len(names)):
            red, green, blue = colorsys.hsv_to_rgb(
                (index * golden) % 1.0, (0.85, 0.6)[index % 2], (0.95, 0.7)[index // 2 % 2]
            )
            colours.append((round(255 * red), round(255 * green), round(255 * blue)))
        return cls(tuple(names), tuple(colours))

    def __len__(self) -> int:
        return len(self.names)

    def palette(self) -> np.ndarray:
        """Colours of all 256 labels, uint8 `[256, 3]` RGB; what is no class is black."""
        palette = np.zeros((256, 3), np.uint8)
        palette[: len(self)] = self.colours
        return palette
