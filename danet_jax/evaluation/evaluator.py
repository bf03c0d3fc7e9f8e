"""From examples to a `Result`: the same during training and at the end."""

from __future__ import annotations

import collections
from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from danet_jax.classes import IGNORE_LABEL, Classes
from danet_jax.errors import InputError
from danet_jax.evaluation.confusion import ConfusionMatrix, count_pairs
from danet_jax.evaluation.result import Result
from danet_jax.inference.applied import applied
from danet_jax.inference.protocol import Protocol
from danet_jax.inference.scores import Wanted

if TYPE_CHECKING:
    from danet_jax.models.danet import DANet

IN_FLIGHT = 4
"""Results that the host may be ahead of the devices: enough to keep them busy, few enough for their memory."""


class Evaluator:
    """Evaluates a network: `Evaluator(model, classes, protocol, mesh)(variables, examples)` is a `Result`.

    Every host evaluates its own examples on its own devices, and only the confusion matrices are added up
    between hosts: shares may be of any size, and nothing is counted twice. Call it on every host.

    Args:
      model: the network.
      classes: of the labels; as many as the network tells apart.
      protocol: how the network is applied to an image; None is the whole image at once.
      mesh: whose devices are used; None is all.

    Raises:
      InputError: the number of classes is not the network's.
    """

    def __init__(
        self, model: DANet, classes: Classes, protocol: Protocol | None = None, mesh: Mesh | None = None
    ) -> None:
        self._applied: Any = applied(model, protocol, classes, mesh, jax.local_devices())
        if len(classes) != model.num_classes:
            raise InputError(
                f"the network tells {model.num_classes} classes apart, but the data have {len(classes)} "
                f"({', '.join(classes.names[:3])}, ...); evaluate on data of the network's classes"
            )
        self.classes, self.protocol, self._mesh = classes, self._applied.protocol, self._applied.mesh
        metric = ConfusionMatrix.of(len(classes))
        empty = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(metric.empty))
        self._empty = jax.device_put(empty, NamedSharding(self._mesh, PartitionSpec()))

        def counted(scores: jax.Array, truth: jax.Array) -> jax.Array:
            return count_pairs(truth, jnp.argmax(scores, -2), len(classes))

        def add(confusion: ConfusionMatrix, counts: jax.Array) -> ConfusionMatrix:
            return confusion.merge(metric(low=counts, high=jnp.zeros_like(counts)))

        self._counted = Wanted(counted, ranking=True, summed=True)
        self._add = jax.jit(add)

    def __call__(self, variables: Mapping[str, Any], examples: Iterable[Mapping[str, Any]]) -> Result:
        """The result over `examples` of all hosts.

        Args:
          variables: the network's; on any devices, the same on every host.
          examples: this host's: `{"name": str, "image": uint8 [H, W, 3], "label": uint8 [H, W]}`.

        Raises:
          InputError: there are no examples, or one without a label, with a label of another size, or with a
            value that is neither a class nor 255; the message names it.
        """
        variables = _replicated(variables, self._mesh)
        confusion = self._empty
        # Images that can go through the devices together wait for each other.
        waiting: dict[Hashable, list[tuple[np.ndarray, np.ndarray]]] = {}
        in_flight: collections.deque[jax.Array] = collections.deque()
        images = 0

        def count(group: Hashable, confusion: ConfusionMatrix) -> ConfusionMatrix:
            pictures, labels = zip(*waiting.pop(group), strict=True)
            for _, counts in self._applied.run(variables, group, pictures, self._counted, labels):
                confusion = self._add(confusion, counts)
                in_flight.append(confusion.low)
                if len(in_flight) > IN_FLIGHT:
                    in_flight.popleft().block_until_ready()
            return confusion

        for example in examples:
            image, label = checked_example(example, self.classes)
            images += 1
            group = self._applied.group(*label.shape)
            queue = waiting.setdefault(group, [])
            queue.append((image, label))
            if self._applied.enough(group, [label.shape for _, label in queue]):
                confusion = count(group, confusion)
        for group in list(waiting):
            confusion = count(group, confusion)
        counts, total = _summed_over_hosts(confusion.compute(), images)
        if total == 0:
            raise InputError("there is no image to evaluate; choose another split or data set")
        return Result(counts, self.classes, total, self.protocol)


def checked_example(example: Mapping[str, Any], classes: Classes) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 `[H, W, 3]` and label uint8 `[H, W]` of an example.

    Raises:
      InputError: see `Evaluator`.
    """
    if not isinstance(example, Mapping) or not {"name", "image", "label"} <= example.keys():
        raise InputError(f"an example must hold name, image and label, not {type(example).__name__}")
    name, image, label = example["name"], np.asarray(example["image"]), example["label"]
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError(f"{name}: the image must be uint8 [H, W, 3], not {image.dtype} {list(image.shape)}")
    if label is None:
        raise InputError(f"{name}: the image has no label; evaluate a split that has labels")
    label = np.asarray(label)
    if label.dtype.kind not in "iu" or label.ndim != 2:
        raise InputError(f"{name}: the label must be uint8 [H, W], not {label.dtype} {list(label.shape)}")
    if image.size == 0:
        raise InputError(f"{name}: the image is empty: {list(image.shape)}")
    if image.shape[:2] != label.shape:
        raise InputError(
            f"{name}: the image is {image.shape[0]}x{image.shape[1]}, but its label "
            f"{'x'.join(map(str, label.shape))}; give both the same size"
        )
    strange = ((label < 0) | (label >= len(classes))) & (label != IGNORE_LABEL)
    if strange.any():
        raise InputError(
            f"{name}: label {label[strange][0]} is neither a class (0 to {len(classes) - 1}) nor {IGNORE_LABEL}"
        )
    return image, label


def _replicated(variables: Any, mesh: Mesh) -> Any:
    """A copy of `variables` on every device of this host's `mesh`."""

    def local(x: Any) -> Any:
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            if not x.is_fully_replicated:
                raise ValueError("variables must be the same on every host")
            return x.addressable_data(0)
        return x

    return jax.device_put(jax.tree.map(local, variables), NamedSharding(mesh, PartitionSpec()))


def _summed_over_hosts(counts: np.ndarray, images: int) -> tuple[np.ndarray, int]:
    if jax.process_count() == 1:
        return counts, images
    from jax.experimental import multihost_utils

    # 64-bit integers do not pass through JAX: they travel as two halves.
    mine = np.append(counts.ravel(), images).view(np.uint32)
    everyone = np.asarray(multihost_utils.process_allgather(mine))
    total = np.ascontiguousarray(everyone).view(np.int64).sum(0)
    return total[:-1].reshape(counts.shape), int(total[-1])
