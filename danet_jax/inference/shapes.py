"""A few padded shapes that images of many sizes share, so that little is compiled."""

from __future__ import annotations

Sizes = tuple[tuple[int, int], ...]
"""(height, width) of an image, and of what it is scaled to."""


LIMIT, MULTIPLE = 3, 32


class Shapes:
    """Shapes that have been given out; each new one costs a compilation.

    The first is exactly that of the first image, so that images of one size are not padded at all. A later
    image goes into a shape in which it fills at least half of the pixels, else gets one of its own, rounded
    up to `MULTIPLE`. After `LIMIT` shapes it goes into whichever holds it, and only if none does, one more is
    made: rounded up to powers of two, and from the second time on to a square of those, so that this seldom happens.
    """

    def __init__(self) -> None:
        self._shapes: list[Sizes] = []

    def fit(self, sizes: Sizes) -> Sizes:
        """The shape for an image of `sizes`, each at least as large."""
        best = min((shape for shape in self._shapes if _holds(shape, sizes)), key=_area, default=None)
        full = len(self._shapes) >= LIMIT
        if best is not None and (full or _area(best) <= 2 * _area(sizes)):
            return best
        if not self._shapes:
            shape = sizes
        elif not full:
            shape = tuple(
                (-(-height // MULTIPLE) * MULTIPLE, -(-width // MULTIPLE) * MULTIPLE)
                for height, width in sizes
            )
        else:
            shape = tuple(
                (_power_of_two(max(h for h, _ in same)), _power_of_two(max(w for _, w in same)))
                for same in zip(sizes, *self._shapes, strict=True)
            )
            if len(self._shapes) > LIMIT:
                shape = tuple((max(s), max(s)) for s in shape)
        self._shapes.append(shape)
        return shape


def _holds(shape: Sizes, sizes: Sizes) -> bool:
    return all(s[0] >= size[0] and s[1] >= size[1] for s, size in zip(shape, sizes, strict=True))


def _area(sizes: Sizes) -> int:
    return sum(height * width for height, width in sizes)


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()
