"""The names and colours of the classes of a label map."""

from __future__ import annotations

import colorsys
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from danet_jax.errors import InputError

IGNORE_LABEL = 255
"""The label of pixels that belong to no class and are ignored, on disk and in memory."""

MAX_CLASSES = 255
"""The maximum number of classes: labels have 8 bits, and 255 is `IGNORE_LABEL`."""


@dataclasses.dataclass(frozen=True)
class Classes:
    """The names and colours of classes, in the order of their label values.

    Attributes:
      names: 1 to 255 different names.
      colours: an RGB colour for each class, integers from 0 to 255.

    Raises:
      InputError: there are not 1 to 255 different names, or not exactly one RGB colour for each.

    Example:
      >>> from danet_jax import Classes
      >>> classes = Classes(["road", "sky"], [(128, 64, 128), (70, 130, 180)])
      >>> len(classes), classes.palette()[1].tolist()
      (2, [70, 130, 180])
    """

    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        names, colours = _as_tuple("names", self.names), _as_tuple("colours", self.colours)
        if len(names) != len(colours):
            problem = f"{len(names)} class names but {len(colours)} colours; give one per class"
            raise _error("colours", colours, problem)
        if not 1 <= len(names) <= MAX_CLASSES:
            raise _error("names", names, f"there can be 1 to {MAX_CLASSES} classes, not {len(names)}")
        for name in names:
            if not isinstance(name, str) or not name.strip():
                raise _error("names", names, f"class name {name!r} must be text")
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise _error("names", names, f"class names given more than once: {', '.join(repeated)}")
        checked = []
        for name, colour in zip(names, colours, strict=True):
            numbers = tuple(colour) if isinstance(colour, Iterable) else ()
            valid = all(isinstance(number, int | np.integer) and 0 <= number <= 255 for number in numbers)
            if len(numbers) != 3 or not valid:
                problem = f"colour {colour!r} of {name} must be red, green and blue, integers from 0 to 255"
                raise _error("colours", colours, problem)
            checked.append(tuple(map(int, numbers)))
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "colours", tuple(checked))

    @classmethod
    def named(cls, names: Sequence[str]) -> Classes:
        """Returns classes with automatically chosen, well-separated colours.

        Args:
          names: the names of the classes, in the order of their label values.

        Raises:
          InputError: there are not 1 to 255 different names.
        """
        names = _as_tuple("names", names)
        golden = 0.618033988749895
        colours = []
        for index in range(len(names)):
            saturation, value = (0.85, 0.6)[index % 2], (0.95, 0.7)[index // 2 % 2]
            red, green, blue = colorsys.hsv_to_rgb((index * golden) % 1.0, saturation, value)
            colours.append((round(255 * red), round(255 * green), round(255 * blue)))
        return cls(names, tuple(colours))

    def __len__(self) -> int:
        return len(self.names)

    def mirrored(self, pairs: Sequence[str]) -> tuple[int, ...]:
        """Returns, for each class, the index of the class that it becomes when an image is flipped horizontally.

        Args:
          pairs: pairs of classes that flipping swaps, such as `left lane=right lane`.

        Raises:
          InputError: a pair does not consist of two existing classes, or a class is in two pairs.
        """
        key = "config.dataset.flip_pairs"
        table = list(range(len(self)))
        for pair in pairs:
            sides = [name.strip() for name in str(pair).split("=")]
            for name in sides:
                if name not in self.names:
                    problem = f"{key}: the class {name!r} does not exist; there are: {', '.join(self.names)}"
                    raise InputError(problem, what=key, value=name, allowed=self.names)
            numbers = [self.names.index(name) for name in sides]
            if len(set(numbers)) != 2 or any(table[number] != number for number in numbers):
                problem = f"{key}: {pair!r} must name two classes that are in no other pair"
                raise InputError(problem, what=key, value=pair)
            left, right = numbers
            table[left], table[right] = right, left
        return tuple(table)

    def palette(self) -> np.ndarray:
        """Returns the RGB colours of all 256 labels, uint8 `[256, 3]`. Labels without a class are black."""
        palette = np.zeros((256, 3), np.uint8)
        palette[: len(self)] = self.colours
        return palette


def _as_tuple(key: str, value: Any) -> tuple[Any, ...]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise _error(key, value, "must be a sequence with one item per class")
    return tuple(value)


def _error(key: str, value: object, problem: str) -> InputError:
    shown = repr(value)
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    return InputError(f"{key}={shown}: {problem}", what=key, value=value)
