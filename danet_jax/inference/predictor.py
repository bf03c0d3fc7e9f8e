"""The interface of the two ways of applying a network to images, and the loop that keeps the devices busy.

`plain.WholeImages` scores images as a whole, `sliding.SlidingWindows` in windows. `Segmenter` and `Evaluator` use
either through `Predictor`, `batches` and `predicted`.
"""

from __future__ import annotations

import collections
import typing
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from danet_jax.inference.protocol import Protocol

Sizes = tuple[tuple[int, int], ...]
"""(height, width) of an image, and of the image at each scale."""


class Reduction(NamedTuple):
    """What is made of scores, on the device.

    Attributes:
      function: maps scores float32 `[B, T, K, W]` of T x W pixels and labels uint8 `[B, T, W]` (255 where there are
        none, and past the image) to an array.
      ranking: whether only the order of the classes in each pixel matters.
      summed: whether the results are summed over all pixels; otherwise they are stacked.
    """

    function: Callable[[jax.Array, jax.Array], jax.Array]
    ranking: bool
    summed: bool = False


LABELS = Reduction(lambda scores, _: jnp.argmax(scores, 2).astype(jnp.uint8), ranking=True)
"""The best class of each pixel, uint8 `[B, T, W]`."""

SCORES = Reduction(lambda scores, _: jnp.swapaxes(scores, 2, 3), ranking=False)
"""The scores themselves, float32 `[B, T, W, K]`."""


class Group(NamedTuple):
    """What images that go through the devices together have in common.

    Attributes:
      shape: the arrays' height and width, at the image's own size and at each scale; empty if images of any sizes go
        together.
      padded: whether an image may be smaller than these.
    """

    shape: Sizes
    padded: bool


class Region(NamedTuple):
    """Where a result belongs: the number of the image, and the first row and column there."""

    image: int
    top: int
    left: int


class Part(NamedTuple):
    """Results on the device.

    Attributes:
      regions: where they belong.
      results: `[n, ...]` with n at least the number of regions, or their sum.
    """

    regions: list[Region]
    results: jax.Array


class Predictor(typing.Protocol):
    """A network under a protocol on the devices of a mesh.

    Attributes:
      protocol: nothing in it is left open.
      mesh: devices of this host.
    """

    protocol: Protocol
    mesh: Mesh

    def group(self, height: int, width: int) -> Group:
        """Returns the group of an image of this size."""

    def is_full(self, group: Group, sizes: Sequence[tuple[int, int]]) -> bool:
        """Returns whether images of these sizes, all of one group, keep all devices busy."""

    def run(
        self,
        variables: Mapping[str, Any],
        group: Group,
        images: Sequence[np.ndarray],
        reduction: Reduction,
        labels: Sequence[np.ndarray] = (),
        *,
        exact: bool = False,
    ) -> Iterator[Part]:
        """Scores images and yields the results part by part, as soon as the devices have been given the work.

        Args:
          variables: the network's, on every device of the mesh.
          group: the group of the images.
          images: uint8 `[H, W, 3]` each, or uint16 for a network of more than 8 bits.
          reduction: what is made of the scores.
          labels: uint8 `[H, W]` of each image, where the reduction needs them.
          exact: whether no more is computed than these images, at the price of further programs for smaller batches;
            otherwise batches are filled up.
        """


Item = TypeVar("Item", bound=tuple[np.ndarray, ...])


def batches(
    predictor: Predictor, items: Iterable[Item], *, in_order: bool
) -> Iterator[tuple[Group, list[Item]]]:
    """Collects images that go through the devices together.

    Args:
      predictor: decides which images these are, and how many.
      items: an image uint8 `[H, W, 3]` each, alone or followed by its labels.
      in_order: whether only consecutive images of one size are collected, so that their order is kept; otherwise an
        image waits for others of its group.
    """
    waiting: dict[Hashable, tuple[Group, list[Item]]] = {}
    for item in items:
        height, width = item[0].shape[:2]
        if in_order and waiting and (height, width) not in waiting:
            yield waiting.popitem()[1]
        group = predictor.group(height, width)
        key = (height, width) if in_order else group
        _, batch = waiting.setdefault(key, (group, []))
        batch.append(item)
        if predictor.is_full(group, [other[0].shape[:2] for other in batch]):
            yield waiting.pop(key)
    yield from waiting.values()


def predicted(
    predictor: Predictor,
    variables: Mapping[str, Any],
    collected: Iterable[tuple[Group, list[Item]]],
    reduction: Reduction,
    *,
    ahead: int,
    exact: bool = False,
) -> Iterator[Part]:
    """Yields the results of `batches`, each once it is computed, while the devices work on up to `ahead` more."""
    in_flight: collections.deque[Part] = collections.deque()
    for group, items in collected:
        images, *labels = zip(*items, strict=True)
        for part in predictor.run(variables, group, images, reduction, *labels, exact=exact):
            in_flight.append(part)
            if len(in_flight) > ahead:
                jax.block_until_ready(in_flight[0].results)
                yield in_flight.popleft()
    yield from in_flight


def on_this_host(variables: Any) -> Any:
    """Returns variables that may be on the devices of all hosts, the same on each, as arrays of this host."""

    def local(x: Any) -> Any:
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            if not x.is_fully_replicated:
                raise ValueError("variables must be the same on every host")
            return x.addressable_data(0)
        return x

    return jax.tree.map(local, variables)
