"""From 8-bit images to label maps."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from danet_jax.classes import Classes
from danet_jax.errors import InputError
from danet_jax.inference.protocol import Protocol
from danet_jax.inference.whole import whole_logits

if TYPE_CHECKING:
    from danet_jax.models.danet import DANet


class Segmenter:
    """Segments images: `segmenter(images)` are labels, `segmenter.scores(images)` the scores behind them.

    Each shape of images is compiled once.

    Args:
      model: the network.
      variables: its parameters and batch statistics.
      protocol: how it is applied to an image; None is the whole image at once.
      classes: names and colours, kept for whoever draws the result.
    """

    def __init__(
        self,
        model: DANet,
        variables: Mapping[str, Any],
        protocol: Protocol | None = None,
        classes: Classes | None = None,
    ) -> None:
        self.model = model
        self.variables = jax.device_put(variables)
        self.protocol = protocol or Protocol.whole()
        self.classes = classes

        def labels(variables: Mapping[str, Any], images: jax.Array) -> jax.Array:
            return jnp.argmax(whole_logits(model, variables, images), -1).astype(jnp.int32)

        def scores(variables: Mapping[str, Any], images: jax.Array) -> jax.Array:
            return jax.nn.softmax(whole_logits(model, variables, images))

        self._labels, self._scores = jax.jit(labels), jax.jit(scores)

    def __call__(self, images: np.ndarray | jax.Array) -> np.ndarray:
        """Labels, int32 `[B, H, W]`, of images uint8 `[B, H, W, 3]` RGB of any size.

        Raises:
          InputError: `images` are not such an array.
        """
        _check(images)
        return np.asarray(self._labels(self.variables, images))

    def scores(self, images: np.ndarray | jax.Array) -> np.ndarray:
        """Scores by class, float32 `[B, H, W, K]`; of the whole-image protocol, class probabilities.

        Raises:
          InputError: `images` are not uint8 `[B, H, W, 3]`.
        """
        _check(images)
        return np.asarray(self._scores(self.variables, images))


def load_segmenter(path: str | os.PathLike[str], protocol: Protocol | None = None) -> Segmenter:
    """A segmenter of a trained run, for example `load_segmenter("runs/quickstart")`.

    Args:
      path: the run's directory; its best checkpoint is used.
      protocol: None is the whole image at once.

    Raises:
      InputError: there is no trained run at `path`.
    """
    from danet_jax.weights.run_directory import read_run

    run = read_run(path)
    return Segmenter(run.model, run.variables, protocol, run.classes)


def _check(images: Any) -> None:
    shape, dtype = getattr(images, "shape", None), getattr(images, "dtype", None)
    if shape is None or len(shape) != 4 or shape[-1] != 3 or dtype != np.uint8:
        hint = "; one image is images[None]" if shape is not None and len(shape) == 3 else ""
        found = type(images).__name__ if shape is None else f"{dtype} {list(shape)}"
        raise InputError(f"images must be uint8 [B, H, W, 3] RGB, not {found}{hint}")
    if 0 in shape:
        raise InputError(f"images are empty: {list(shape)}")
