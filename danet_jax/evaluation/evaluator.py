"""Evaluates a network on examples, both during training and afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from danet_jax.classes import IGNORE_LABEL, Classes
from danet_jax.errors import InputError
from danet_jax.evaluation.confusion import ConfusionMatrix, count_pairs
from danet_jax.evaluation.result import Result
from danet_jax.inference.predictor import Reduction, local_variables, predict
from danet_jax.inference.protocol import Protocol
from danet_jax.inference.segmenter import make_predictor

if TYPE_CHECKING:
    from danet_jax.models.danet import DANet

AHEAD = 4
"""The maximum number of results that the devices compute ahead of the host: enough to keep them busy, and few enough to
fit into memory."""


class Evaluator:
    """Evaluates a network: `Evaluator(model, classes, protocol, mesh)(variables, examples)` returns a `Result`.

    Every host must call it. Each evaluates its own examples on its own devices, and only the confusion matrices are
    summed over hosts. The hosts' shares may be of any size, and no example is counted twice.

    Args:
      model: the network.
      classes: the classes of the labels, as many as the network has.
      protocol: how the network is applied to an image; None applies it to the whole image at once.
      mesh: the devices; None uses all.

    Raises:
      InputError: an argument has the wrong type, or the number of classes is not the network's.
    """

    def __init__(
        self, model: DANet, classes: Classes, protocol: Protocol | None = None, mesh: Mesh | None = None
    ) -> None:
        self._predictor = make_predictor(model, protocol, classes, mesh, jax.local_devices())
        if len(classes) != model.num_classes:
            raise InputError(
                f"classes: the network has {model.num_classes} classes, but the data set has {len(classes)} "
                f"({', '.join(classes.names[:3])}, ...); evaluate on a data set with the network's classes",
                what="classes",
                value=len(classes),
                allowed=model.num_classes,
            )
        self.classes, self.protocol = classes, self._predictor.protocol
        self._replicated = NamedSharding(self._predictor.mesh, PartitionSpec())
        metric = ConfusionMatrix.of(len(classes))
        empty = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(metric.empty))
        self._empty = jax.device_put(empty, self._replicated)

        def count(scores: jax.Array, labels: jax.Array) -> jax.Array:
            return count_pairs(labels, jnp.argmax(scores, -2), len(classes))

        def add(confusion: ConfusionMatrix, counts: jax.Array) -> ConfusionMatrix:
            return confusion.merge(metric(low=counts, high=jnp.zeros_like(counts)))

        self._count = Reduction(count, ranking=True, summed=True)
        self._add = jax.jit(add)

    def __call__(self, variables: Mapping[str, Any], examples: Iterable[Mapping[str, Any]]) -> Result:
        """Returns the result over the examples of all hosts.

        Args:
          variables: the network's variables, on any devices, the same on every host.
          examples: this host's examples: `{"name": str, "image": uint8 [H, W, 3], "label": uint8 [H, W]}`;
            images are uint16 if the protocol's `bits` are more than 8.

        Raises:
          InputError: there are no examples, or one has no label, a label of another size, or a value that is neither
            a class nor 255; the message names it.
        """
        variables = jax.device_put(local_variables(variables), self._replicated)
        images = 0

        def pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            nonlocal images
            for example in examples:
                yield validate_example(example, self.classes, self.protocol.pixel_type)
                images += 1

        confusion = self._empty
        parts = predict(self._predictor, variables, pairs(), self._count, in_order=False, ahead=AHEAD)
        for _, part in parts:
            confusion = self._add(confusion, part.results)
        counts, total = _summed_over_hosts(confusion.compute(), images)
        if total == 0:
            raise InputError(
                "examples is empty, so there is nothing to evaluate; choose another split or data set",
                what="examples",
            )
        return Result(counts, self.classes, total, self.protocol)


def validate_example(
    example: Mapping[str, Any], classes: Classes, pixel_type: Any = np.uint8
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the image, `[H, W, 3]` of `pixel_type`, and the label, uint8 `[H, W]`, of an example.

    Raises:
      InputError: see `Evaluator.__call__`.
    """
    if not isinstance(example, Mapping) or not {"name", "image", "label"} <= example.keys():
        raise InputError(
            f"an example must contain name, image and label, not {type(example).__name__}", what="example"
        )
    name, image, label = example["name"], np.asarray(example["image"]), example["label"]

    def invalid(problem: str, value: Any = None) -> InputError:
        return InputError(f"{name}: {problem}", what=str(name), value=value)

    if image.dtype != pixel_type or image.ndim != 3 or image.shape[2] != 3:
        kind = np.dtype(pixel_type).name
        raise invalid(f"the image must be {kind} [H, W, 3], not {image.dtype} {list(image.shape)}")
    if label is None:
        raise invalid("the image has no label; evaluate a split that has labels")
    label = np.asarray(label)
    if label.dtype.kind not in "iu" or label.ndim != 2:
        raise invalid(f"the label must be uint8 [H, W], not {label.dtype} {list(label.shape)}")
    if image.size == 0:
        raise invalid(f"the image is empty: {list(image.shape)}")
    if image.shape[:2] != label.shape:
        sizes = ("x".join(map(str, shape)) for shape in (image.shape[:2], label.shape))
        raise invalid("the image is {} and its label {}; they must have the same size".format(*sizes))
    unknown = label[((label < 0) | (label >= len(classes))) & (label != IGNORE_LABEL)]
    if len(unknown):
        raise invalid(
            f"label {unknown[0]} is neither a class (0 to {len(classes) - 1}) nor {IGNORE_LABEL}", unknown[0]
        )
    return image, label


def _summed_over_hosts(counts: np.ndarray, images: int) -> tuple[np.ndarray, int]:
    if jax.process_count() == 1:
        return counts, images
    from jax.experimental import multihost_utils

    # 64-bit integers do not pass through JAX, so they are sent as two halves.
    mine = np.append(counts.ravel(), images).view(np.uint32)
    everyone = np.asarray(multihost_utils.process_allgather(mine))
    total = np.ascontiguousarray(everyone).view(np.int64).sum(0)
    return total[:-1].reshape(counts.shape), int(total[-1])
