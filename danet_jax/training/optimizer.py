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


def is_attention(path: tuple[Any, ...]) -> bool:
    """Whether a path leads to what decides where attention looks: query, key, alpha or beta."""
    return any(key.key in ("query", "key", "alpha", "beta") for key in path)


def sgd(
    schedule: optax.Schedule,
    *,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    head_multiplier: float = 10.0,
    attention_multiplier: float = 1.0,
    decay_scales: bool = True,
) -> optax.GradientTransformation:
    """Torch's SGD with two parameter groups: the heads learn `head_multiplier` times as fast as the backbone.

    `trace = momentum * trace + gradient + weight_decay * parameter`, for every parameter (batch
    normalisation, biases, alpha and beta too), then `parameter -= learning_rate * multiplier * trace`.
    The learning rate comes after the trace, as in torch, so that its decay acts at once.

    Outside the paper: `attention_multiplier` lets query, key, alpha and beta learn so many times as fast as the rest
    of the heads, and without `decay_scales` alpha and beta have no weight decay.
    """

    def multiplier(path: tuple[Any, ...]) -> float:
        if is_backbone(path):
            return 1.0
        return head_multiplier * (attention_multiplier if is_attention(path) else 1.0)

    def scale(updates: Any, state: optax.OptState, params: Any = None) -> tuple[Any, optax.OptState]:
        del params
        scaled = jax.tree_util.tree_map_with_path(
            lambda path, update: update if is_backbone(path) else update * multiplier(path), updates
        )
        return scaled, state

    def decayed(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: decay_scales or path[-1].key not in ("alpha", "beta"), params
        )

    return optax.chain(
        # Without a mask nothing is wrapped, and the state is that of every run so far.
        optax.add_decayed_weights(weight_decay, mask=None if decay_scales else decayed),
        optax.trace(decay=momentum),
        optax.GradientTransformation(lambda params: optax.EmptyState(), scale),
        optax.scale_by_learning_rate(schedule),
    )
