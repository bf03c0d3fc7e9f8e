"""The authors' optimizer (section 4.1), stochastic gradient descent with a poly schedule, in optax."""

from __future__ import annotations

from typing import Any

import jax
import optax


def poly_schedule(learning_rate: float, steps: int, power: float = 0.9) -> optax.Schedule:
    """Returns the schedule `learning_rate * (1 - step / steps) ** power`, without warm-up.

    Args:
      learning_rate: the learning rate of the first step.
      steps: the number of steps after which the learning rate is 0.
      power: the exponent of the decay.

    Returns:
      A function of the step, which returns the learning rate.

    Example:
      >>> from danet_jax import poly_schedule
      >>> schedule = poly_schedule(0.01, steps=100)
      >>> [f"{schedule(step):.4f}" for step in (0, 50, 100)]
      ['0.0100', '0.0054', '0.0000']
    """
    return optax.polynomial_schedule(learning_rate, 0.0, power, steps)


def sgd(
    schedule: optax.Schedule,
    *,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    head_multiplier: float = 10.0,
    attention_multiplier: float = 1.0,
    decay_scales: bool = True,
) -> optax.GradientTransformation:
    """Returns SGD as in torch, with a learning rate that is `head_multiplier` times higher for the heads.

    A step computes `trace = momentum * trace + gradient + weight_decay * parameter` for every parameter, including
    those of batch normalisation, biases, alpha and beta, and then `parameter -= learning_rate * multiplier * trace`.
    As in torch, the learning rate is applied after the trace, so that its decay takes effect immediately.

    Args:
      schedule: the learning rate of the backbone by step, for example a `poly_schedule`.
      momentum: momentum of the trace.
      weight_decay: factor of each parameter that is added to its gradient.
      head_multiplier: factor of the learning rate for every parameter outside a module named `backbone`.
      attention_multiplier: additional factor for query, key, alpha and beta; not in the paper.
      decay_scales: whether to apply weight decay to alpha and beta, as in the paper.

    Returns:
      The optimizer.

    Example:
      >>> import jax.numpy as jnp
      >>> from danet_jax import poly_schedule, sgd
      >>> params = {"backbone": {"w": jnp.ones(2)}, "head": {"w": jnp.ones(2)}}
      >>> optimizer = sgd(poly_schedule(0.1, steps=100), weight_decay=0.0)
      >>> updates, state = optimizer.update(params, optimizer.init(params), params)
      >>> updates["backbone"]["w"].tolist(), updates["head"]["w"].tolist()
      ([-0.10000000149011612, -0.10000000149011612], [-1.0, -1.0])
    """

    def multiplier(path: tuple[Any, ...]) -> float:
        attention = _names(path) & {"query", "key", "alpha", "beta"}
        return head_multiplier * (attention_multiplier if attention else 1.0)

    def scale(updates: Any, state: optax.OptState, params: Any = None) -> tuple[Any, optax.OptState]:
        del params
        scaled = jax.tree_util.tree_map_with_path(
            lambda path, update: update if "backbone" in _names(path) else update * multiplier(path), updates
        )
        return scaled, state

    def decayed(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: decay_scales or not _names(path) & {"alpha", "beta"}, params
        )

    return optax.chain(
        # Without a mask, the state is not wrapped and thus compatible with that of earlier runs.
        optax.add_decayed_weights(weight_decay, mask=None if decay_scales else decayed),
        optax.trace(decay=momentum),
        optax.GradientTransformation(lambda params: optax.EmptyState(), scale),
        optax.scale_by_learning_rate(schedule),
    )


def _names(path: tuple[Any, ...]) -> set[str]:
    """Returns the names on a path in a tree of Linen or NNX parameters."""
    return {str(getattr(key, "key", getattr(key, "name", key))) for key in path}
