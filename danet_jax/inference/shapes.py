"""A few padded shapes that images of many sizes share, so that little is compiled."""

from __future__ import annotations


class Shapes:
    """Shapes that have been given out; each new one costs a compilation.

    The first is exactly the size of the first image, so that images of one size are not padded at all. A later
    image goes into a shape in which it fills at least half of the pixels, else gets one of its own, rounded
    up to `multiple`. After `limit` shapes it goes into whichever holds it, and only if none does, one more is
    made: twice as large as need be, so that this seldom happens.
    """

    def __init__(self, limit: int = 6, multiple: int = 32) -> None:
        self._limit, self._multiple = limit, multiple
        self._shapes: list[tuple[int, int]] = []

    def fit(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) of the shape for an image of that size."""
        holding = [s for s in self._shapes if s[0] >= height and s[1] >= width]
        best = min(holding, key=lambda s: s[0] * s[1], default=None)
        full = len(self._shapes) >= self._limit
        if best is not None and (full or best[0] * best[1] <= 2 * height * width):
            return best
        if not self._shapes:
            shape = (height, width)
        elif full:
            heights, widths = zip(*self._shapes, strict=True)
            shape = (_power_of_two(max(height, *heights)), _power_of_two(max(width, *widths)))
        else:
            shape = (self._rounded(height), self._rounded(width))
        self._shapes.append(shape)
        return shape

    def _rounded(self, size: int) -> int:
        return -(-size // self._multiple) * self._multiple


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()
