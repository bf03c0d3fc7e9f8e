"""From examples to a `Result`: the same during training and at the end."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from danet_jax.classes import IGNORE_LABEL, Classes
from danet_jax.errors import InputError
from danet_jax.evaluation.confusion import ConfusionMatrix
from danet_jax.evaluation.result import Result
from danet_jax.inference.protocol import Protocol
from danet_jax.inference.shapes import Shapes
from danet_jax.inference.whole import whole_logits

if TYPE_CHECKING:
    from danet_jax.models.danet import DANet

IN_FLIGHT = 4
"""Batches that the host may be ahead of the devices: enough to keep them busy, few enough for their memory."""


class Evaluator:
    """Evaluates a network: `Evaluator(model, classes, protocol, mesh)(variables, examples)` is a `Result`.

    Every host evaluates its own examples on its own devices, one image on each, and only the confusion
    matrices are added up between hosts: shares may be of any size, and nothing is counted twice.
    Call it on every host.

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
        if len(classes) != model.num_classes:
            raise InputError(
                f"the network tells {model.num_classes} classes apart, but the data have {len(classes)} "
                f"({', '.join(classes.names[:3])}, ...); evaluate on data of the network's classes"
            )
        self.model, self.classes = model, classes
        self.protocol = protocol or Protocol.whole()
        devices = jax.local_devices() if mesh is None else mesh.local_devices
        self._mesh = Mesh(np.asarray(devices).reshape(-1), ("data",))
        self._shapes = Shapes()
        metric = ConfusionMatrix.of(len(classes))
        replicated = NamedSharding(self._mesh, PartitionSpec())
        self._empty = jax.jit(metric.empty, out_shardings=replicated)

        def count(variables: Any, confusion: Any, images: jax.Array, labels: jax.Array, sizes: Any) -> Any:
            predictions = jnp.argmax(whole_logits(model, variables, images, sizes), -1)
            return confusion.merge(metric.from_model_output(labels=labels, predictions=predictions))

        self._count = jax.jit(count, out_shardings=replicated)

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
        batch_size = self._mesh.size
        confusion = self._empty()
        queues: dict[tuple[tuple[int, int], bool], list[tuple[np.ndarray, np.ndarray]]] = {}
        in_flight: collections.deque[jax.Array] = collections.deque()
        images = 0

        def flush(
            shape: tuple[int, int], padded: bool, batch: Sequence[tuple[np.ndarray, np.ndarray]]
        ) -> Any:
            arrays = _batch(batch, batch_size, shape)
            sharding = NamedSharding(self._mesh, PartitionSpec("data"))
            image, label, sizes = (jax.device_put(array, sharding) for array in arrays)
            in_flight.append(confusion.low)
            if len(in_flight) > IN_FLIGHT:
                in_flight.popleft().block_until_ready()
            return self._count(variables, confusion, image, label, sizes if padded else None)

        for example in examples:
            image, label = checked_example(example, self.classes)
            shape = self._shapes.fit(*label.shape)
            # An image that fills its shape needs no masks, whichever images come before it.
            key = (shape, label.shape != shape)
            queues.setdefault(key, []).append((image, label))
            images += 1
            if len(queues[key]) == batch_size:
                confusion = flush(*key, queues.pop(key))
        for key, batch in queues.items():
            confusion = flush(*key, batch)
        counts, total = _summed_over_hosts(confusion.compute(), images)
        if total == 0:
            raise InputError("there is no image to evaluate; choose another split or data set")
        return Result(counts, self.classes, total, self.protocol)


def checked_example(example: Mapping[str, Any], classes: Classes) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 `[H, W, 3]` and label uint8 `[H, W]` of an example.

    Raises:
      InputError: see `Evaluator`.
    """
    name, image, label = example["name"], example["image"], example["label"]
    if label is None:
        raise InputError(f"{name}: the image has no label; evaluate a split that has labels")
    if image.shape[:2] != label.shape:
        raise InputError(
            f"{name}: the image is {image.shape[0]}x{image.shape[1]}, but its label "
            f"{'x'.join(map(str, label.shape))}; give both the same size"
        )
    strange = (label >= len(classes)) & (label != IGNORE_LABEL)
    if strange.any():
        raise InputError(
            f"{name}: label {label[strange][0]} is neither a class (0 to {len(classes) - 1}) nor {IGNORE_LABEL}"
        )
    return image, label


def _batch(
    examples: Sequence[tuple[np.ndarray, np.ndarray]], batch_size: int, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, labels and sizes, padded to `shape` and filled up to `batch_size` with what is not counted."""
    images = np.zeros((batch_size, *shape, 3), np.uint8)
    labels = np.full((batch_size, *shape), IGNORE_LABEL, np.uint8)
    sizes = np.ones((batch_size, 2), np.int32)
    for index, (image, label) in enumerate(examples):
        height, width = label.shape
        images[index, :height, :width], labels[index, :height, :width] = image, label
        sizes[index] = height, width
    return images, labels, sizes


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
