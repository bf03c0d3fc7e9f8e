"""The interface of whole-image and sliding-window inference, and the loop that keeps the devices busy."""

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

Item = TypeVar("Item", bound=tuple[np.ndarray, ...])
"""An image `[H, W, 3]`, alone or followed by its labels, uint8 `[H, W]`."""


class Reduction(NamedTuple):
    """What the devices compute from scores.

    Attributes:
      function: maps the scores of T x W pixels, float32 `[B, T, K, W]`, and their labels, uint8 `[B, T, W]` (255 where
        there is none, and past the image), to an array.
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
    """What images that the devices process together have in common.

    Attributes:
      shape: the height and width of the arrays, at the image's own size and at each scale; empty if images of any size
        are processed together.
      padded: whether an image may be smaller than these arrays.
    """

    shape: Sizes
    padded: bool


class Region(NamedTuple):
    """The position of a result: the index of its image in the batch, and its first row and column in that image."""

    image: int
    top: int
    left: int


class Part(NamedTuple):
    """Results on the device.

    Attributes:
      regions: where the results belong.
      results: `[n, ...]` with n at least the number of regions, or their sum.
    """

    regions: list[Region]
    results: jax.Array


class Predictor(typing.Protocol):
    """A network under a protocol on the devices of a mesh.

    Attributes:
      protocol: a protocol without open fields.
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
        """Scores images and yields the results part by part, as soon as the work is dispatched to the devices.

        Args:
          variables: the network's variables, on every device of the mesh.
          group: the group of the images.
          images: `[H, W, 3]` each, of the protocol's `pixel_type`.
          reduction: what is computed from the scores.
          labels: uint8 `[H, W]` for each image, if the reduction needs them.
          exact: whether only these images are computed, which compiles further programs for smaller batches; otherwise
            batches are padded.
        """


def predict(
    predictor: Predictor,
    variables: Mapping[str, Any],
    items: Iterable[Item],
    reduction: Reduction,
    *,
    in_order: bool,
    ahead: int,
    exact: bool = False,
) -> Iterator[tuple[list[Item], Part]]:
    """Applies a network to images and yields the results part by part, each with the batch that it belongs to.

    A part is yielded once it is computed, while the devices work on up to `ahead` more, which a CPU computes
    concurrently. All parts of a batch are yielded one after another.

    Args:
      predictor: decides which images the devices process together.
      variables: the network's variables, on every device of the predictor's mesh.
      items: the images, alone or followed by their labels.
      reduction: what is computed from the scores.
      in_order: whether only consecutive images of one size form a batch, so that their order is kept; otherwise an
        image waits for others of its group.
      ahead: how many parts the devices work on at a time, at least 1.
      exact: see `Predictor.run`.
    """
    in_flight: collections.deque[tuple[list[Item], Part]] = collections.deque()
    for group, batch in _batches(predictor, items, in_order=in_order):
        images, *labels = zip(*batch, strict=True)
        parts = predictor.run(variables, group, images, reduction, *labels, exact=exact)
        while True:
            if len(in_flight) == ahead:
                jax.block_until_ready(in_flight[0][1].results)
            part = next(parts, None)
            if part is None:
                break
            in_flight.append((batch, part))
            if len(in_flight) > ahead:
                yield in_flight.popleft()
    yield from in_flight


def _batches(
    predictor: Predictor, items: Iterable[Item], *, in_order: bool
) -> Iterator[tuple[Group, list[Item]]]:
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


def local_variables(variables: Any) -> Any:
    """Returns variables that are the same on all hosts, on any devices, as arrays of this host."""

    def local(x: Any) -> Any:
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            if not x.is_fully_replicated:
                raise ValueError("variables must be the same on every host")
            return x.addressable_data(0)
        return x

    return jax.tree.map(local, variables)
