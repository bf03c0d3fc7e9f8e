"""Stochastic gradient descent as the authors use it, in optax (section 4.1)."""

from __future__ import annotations

from typing import Any

import jax
import optax


def poly_schedule(learning_rate: float, steps: int, power: float = 0.9) -> optax.Schedule:
    """`learning_rate * (1 - step / steps) ** power`, per step, without warm-up."""
    return optax.polynomial_schedule(learning_rate, 0.0, power, steps)


def is_backbone(path: tuple[Any, ...]) -> bool:
    """Whether a path in the parameter tree leads into the backbone; the rest are the heads."""
    return path[0].key == "backbone"


def sgd(
    schedule: optax.Schedule,
    *,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    head_multiplier: float = 10.0,
) -> optax.GradientTransformation:
    """Torch's SGD with two parameter groups: the heads learn `head_multiplier` times as fast as the backbone.

    `trace = momentum * trace + gradient + weight_decay * parameter`, for every parameter (batch
    normalisation, biases, alpha and beta too), then `parameter -= learning_rate * multiplier * trace`.
    The learning rate comes after the trace, as in torch, so that its decay acts at once.
    """

    def scale_heads(updates: Any, state: optax.OptState, params: Any = None) -> tuple[Any, optax.OptState]:
        del params
        scaled = jax.tree_util.tree_map_with_path(
            lambda path, update: update if is_backbone(path) else update * head_multiplier, updates
        )
        return scaled, state

    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.trace(decay=momentum),
        optax.GradientTransformation(lambda params: optax.EmptyState(), scale_heads),
        optax.scale_by_learning_rate(schedule),
    )
