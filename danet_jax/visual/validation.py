"""A few validation images, predicted again and again while a network is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from danet_jax.classes import Classes
from danet_jax.inference.protocol import Protocol
from danet_jax.inference.segmenter import Segmenter

if TYPE_CHECKING:
    from danet_jax.models.danet import DANet

_LONGEST = 512


class ValidationPictures:
    """`pictures(variables)` returns the examples beside truth and prediction, uint8 `[H, 3 W, 3]` by name.

    Args:
      model: the network.
      protocol: how it is applied.
      classes: their colours are used.
      examples: `{"name", "image": uint8 [H, W, 3], "label": uint8 [H, W]}`; without any nothing is computed.
    """

    def __init__(
        self, model: DANet, protocol: Protocol, classes: Classes, examples: Sequence[Mapping[str, Any]]
    ) -> None:
        self._model, self._protocol, self._classes, self._examples = model, protocol, classes, examples
        self._segmenter: Segmenter | None = None

    def __call__(self, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Returns the images for the network's variables, which are on any devices, the same on every host."""
        if not self._examples:
            return {}
        if self._segmenter is None:
            self._segmenter = Segmenter(self._model, variables, self._protocol)
        segmenter = self._segmenter.with_variables(variables)
        palette = self._classes.palette()
        found = {}
        for index, example in enumerate(self._examples):
            labels = segmenter(example["image"][None])[0]
            step = -(-max(labels.shape) // _LONGEST)
            parts = (example["image"], palette[example["label"]], palette[labels])
            found[f"validation/picture_{index}"] = np.concatenate([part[::step, ::step] for part in parts], 1)
        return found
