"""Shows predictions for a few validation images while a network is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from danet_jax.classes import Classes
from danet_jax.data.decode import to_8_bits
from danet_jax.inference.protocol import Protocol
from danet_jax.inference.segmenter import Segmenter

if TYPE_CHECKING:
    from danet_jax.models.danet import DANet

_LONGEST = 512


class ValidationImages:
    """Draws examples, their labels and their predictions next to each other, uint8 `[H, 3 W, 3]` by name.

    Args:
      model: the network.
      protocol: how the network is applied to an image.
      classes: the classes, whose colours are used.
      examples: `{"name", "image", "label"}`, as an `Evaluator` takes them.
    """

    def __init__(
        self, model: DANet, protocol: Protocol, classes: Classes, examples: Sequence[Mapping[str, Any]]
    ) -> None:
        self._model, self._protocol, self._examples = model, protocol, examples
        self._palette = classes.palette()
        self._segmenter: Segmenter | None = None

    def __call__(self, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Returns the images for these variables, which may be on any devices and must be the same on every host."""
        if not self._examples:
            return {}
        if self._segmenter is None:
            self._segmenter = Segmenter(self._model, variables, self._protocol)
        segmenter = self._segmenter.with_variables(variables)
        images = {}
        for index, example in enumerate(self._examples):
            labels = segmenter(example["image"])
            step = -(-max(labels.shape) // _LONGEST)
            image = to_8_bits(example["image"], segmenter.protocol.depth)
            parts = (image, self._palette[example["label"]], self._palette[labels])
            images[f"validation/picture_{index}"] = np.concatenate([x[::step, ::step] for x in parts], 1)
        return images
