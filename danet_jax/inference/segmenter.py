"""From 8-bit images to label maps."""

from __future__ import annotations

import collections
import concurrent.futures
import copy
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from danet_jax.classes import MAX_CLASSES, Classes
from danet_jax.errors import InputError
from danet_jax.inference.applied import applied
from danet_jax.inference.protocol import Protocol
from danet_jax.inference.scaling import seen_whole
from danet_jax.inference.scores import LABELS, SCORES, Wanted
from danet_jax.models.insight import AttentionMaps, Insight, insight
from danet_jax.models.variables import check_fits, refuse_not_finite

if TYPE_CHECKING:
    from danet_jax.models.danet import DANet

AHEAD = 2
"""Results that the device may be ahead of the host that fetches them."""


class Segmenter:
    """Segments images: `segmenter(images)` are labels, `segmenter.scores(images)` the scores behind them.

    A few functions are compiled, at most eight, for images of however many sizes, and others for two, four or
    eight small ones at a time, which are faster together. Labels of an image of any
    size need little memory: scores are merged, and forgotten, part by part.

    Args:
      model: the network.
      variables: its parameters and batch statistics.
      protocol: how it is applied to an image; None is the whole image at once.
      classes: names and colours, kept for whoever draws the result.
      mesh: whose devices on this host are used, images divided over its axis `data` and their rows over
        `space`; None is the first device.

    Raises:
      InputError: an argument is not such, the variables or the classes are not the model's, a variable is no
        finite number, or there are more classes than labels have room for.
    """

    def __init__(
        self,
        model: DANet,
        variables: Mapping[str, Any],
        protocol: Protocol | None = None,
        classes: Classes | None = None,
        mesh: Mesh | None = None,
    ) -> None:
        self._applied: Any = applied(model, protocol, classes, mesh, jax.local_devices()[:1])
        check_fits(model, variables)
        refuse_not_finite(variables)
        if model.num_classes > MAX_CLASSES:
            raise InputError(f"{model.num_classes} classes: labels are 8-bit, at most {MAX_CLASSES}")
        if classes is not None and len(classes) != model.num_classes:
            raise InputError(f"classes are {len(classes)}, but the network tells {model.num_classes} apart")
        self.model, self.protocol, self.classes = model, self._applied.protocol, classes
        self.variables = jax.device_put(variables, NamedSharding(self._applied.mesh, PartitionSpec()))

    def with_variables(self, variables: Mapping[str, Any]) -> Segmenter:
        """The same with other variables of the same shapes; what is compiled is shared.

        Raises:
          InputError: they are not the model's.
        """
        check_fits(self.model, variables)
        other = copy.copy(self)
        sharding = jax.tree.leaves(self.variables)[0].sharding
        other.variables = jax.device_put(variables, sharding)
        return other

    @property
    def num_classes(self) -> int:
        """K."""
        return self.model.num_classes

    def __call__(self, images: np.ndarray | jax.Array) -> np.ndarray:
        """Labels, int32 `[B, H, W]`, of images uint8 `[B, H, W, 3]` RGB of any size.

        Raises:
          InputError: `images` are not such an array.
        """
        return self._labels(_checked(images), exact=True)

    def stream(self, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Labels, int32 `[H, W]`, of one image after another, each uint8 `[H, W, 3]` RGB, in their order.

        Images of one size that follow each other go to the device together, as many as it takes at once, and it works
        on them while the results before are used and the images after them are read: no more than two such batches
        are in memory.

        Raises:
          InputError: an image is not such an array.
        """
        with concurrent.futures.ThreadPoolExecutor(1) as device:
            labels: Iterator[Any] = (
                device.submit(self._labels, _checked(batch), exact=False) for batch in self._batches(images)
            )
            # The device has the next batch while the results of one are used.
            for of_batch, _ in itertools.pairwise(itertools.chain(labels, [None])):
                yield from of_batch.result()

    def _batches(self, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        waiting: list[np.ndarray] = []
        for image in images:
            if getattr(image, "ndim", None) != 3:
                raise InputError(f"images must be a stream of uint8 [H, W, 3] RGB, not of {_found(image)}")
            if waiting and waiting[0].shape != image.shape:
                yield np.stack(waiting)
                waiting = []
            waiting.append(image)
            height, width = image.shape[:2]
            group = self._applied.group(height, width)
            if self._applied.enough(group, [(height, width)] * len(waiting)):
                yield np.stack(waiting)
                waiting = []
        if waiting:
            yield np.stack(waiting)

    def scores(self, images: np.ndarray | jax.Array) -> np.ndarray:
        """Scores of each class, float32 `[B, H, W, K]`, as the protocol merges them, at the images' size.

        With "softmax" they are class probabilities, with "logits" logits. With "exp" they are the authors' sums
        of exponentials, without any normalisation over classes. Those may be of any magnitude: in a pixel
        whose largest score is not between exp(-60) and exp(80), all scores are divided by one factor that brings
        it there, so that they neither overflow nor vanish, and their order and ratios are right.

        Raises:
          InputError: `images` are not uint8 `[B, H, W, 3]`.
        """
        images = _checked(images)
        scores = np.empty((*images.shape[:3], self.num_classes), np.float32)
        return self._filled(scores, images, SCORES, exact=True)

    def explain(self, image: np.ndarray | jax.Array) -> Insight:
        """What the network saw in one image, uint8 `[H, W, 3]` RGB: queries, keys, scales, logits; see `Insight`.

        As a whole, at the protocol's base size, unflipped, whatever its scales and windows.

        Raises:
          InputError: `image` is not such an array.
        """
        if getattr(image, "ndim", None) != 3:
            raise InputError(f"image must be one image, uint8 [H, W, 3] RGB, not {_found(image)}")
        return insight(self.model, self.variables, seen_whole(self.protocol, _checked(image[None])[0]))

    def attention(
        self, image: np.ndarray | jax.Array, places: Sequence[Sequence[int]] | np.ndarray
    ) -> AttentionMaps:
        """Rows and columns of the map of position attention, exact, float32 `[K, h, w]` each.

        Args:
          image: see `explain`; who asks for one image again and again keeps `explain(image)` and its `maps`.
          places: int `[K, 2]`, (row, column) at the network's output stride: of pixel (y, x) of what the network
            sees, (y // 8, x // 8).

        Raises:
          InputError: `image` or `places` are not such arrays, or the network has no position attention.
        """
        return self.explain(image).maps(places)

    def _labels(self, images: np.ndarray, *, exact: bool) -> np.ndarray:
        return self._filled(np.empty(images.shape[:3], np.int32), images, LABELS, exact=exact)

    def _filled(self, whole: np.ndarray, images: np.ndarray, wanted: Wanted, *, exact: bool) -> np.ndarray:
        """`whole` with the results of each part, fetched while the device works on the next."""
        waiting: collections.deque[Any] = collections.deque()

        def fetch() -> None:
            regions, results = waiting.popleft()
            for region, part in zip(regions, np.asarray(results), strict=False):
                place = whole[region.image, region.top :, region.left :][: part.shape[0], : part.shape[1]]
                place[...] = part[: place.shape[0], : place.shape[1]]  # the rest is past the image

        group = self._applied.group(*images.shape[1:3])
        for part in self._applied.run(self.variables, group, list(images), wanted, exact=exact):
            waiting.append(part)
            if len(waiting) > AHEAD:
                fetch()
        while waiting:
            fetch()
        return whole


def _checked(images: Any) -> np.ndarray:
    shape, dtype = getattr(images, "shape", None), getattr(images, "dtype", None)
    if shape is None or len(shape) != 4 or shape[-1] != 3 or dtype != np.uint8:
        hint = "; one image is images[None]" if shape is not None and len(shape) == 3 else ""
        raise InputError(f"images must be uint8 [B, H, W, 3] RGB, not {_found(images)}{hint}")
    if 0 in shape:
        raise InputError(f"images are empty: {list(shape)}")
    return np.asarray(images)


def _found(images: Any) -> str:
    shape, dtype = getattr(images, "shape", None), getattr(images, "dtype", None)
    return type(images).__name__ if shape is None else f"{dtype} {list(shape)}"
