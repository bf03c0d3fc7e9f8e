"""The step of training that a recipe describes: `--mode=train` takes it, `--mode=compile` asks a compiler about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import optax
from jax.sharding import Mesh

from danet_jax.models.danet import DANet
from danet_jax.recipe import Recipe
from danet_jax.training.losses import HardPixels
from danet_jax.training.optimizer import poly_schedule, sgd
from danet_jax.training.state import AttentionStart, TrainState, create_state, make_train_step


class TrainingStep(NamedTuple):
    """What `training_step` makes.

    Attributes:
      schedule: the learning rate of the backbone by step.
      step: `(state, batch) -> (state, metrics)`, see `make_train_step`.
      fresh_state: a state to begin with, laid out over a mesh.
    """

    schedule: optax.Schedule
    step: Any
    fresh_state: Callable[[Mesh], TrainState]


def training_step(
    recipe: Recipe, model: DANet, steps: int, class_weights: tuple[float, ...] | None = None
) -> TrainingStep:
    """Of a network of the recipe that is trained for so many steps, its classes weighted in the loss or all alike."""
    options = recipe.training
    schedule = poly_schedule(options.learning_rate, steps, options.power)
    optimizer = sgd(
        schedule,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        head_multiplier=options.head_multiplier,
        attention_multiplier=options.attention_multiplier,
        decay_scales=options.decay_scales,
    )
    mean, std = recipe.protocol().normalisation
    step = make_train_step(
        # Strides and dilations have no parameters: the weights are the same.
        model.clone(output_stride=options.output_stride or model.output_stride),
        optimizer,
        loss_weights=options.loss_weights,
        auxiliary_weight=options.auxiliary_weight,
        hard_pixels=HardPixels(options.ohem_threshold, options.ohem_kept) if options.ohem_threshold else None,
        class_weights=class_weights,
        average_decay=options.ema_decay,
        accumulation=options.accumulation,
        mean=mean,
        std=std,
    )

    def fresh_state(mesh: Mesh) -> TrainState:
        return create_state(
            model,
            optimizer,
            recipe.seed,
            mesh,
            start=AttentionStart(recipe.init.query_key_gain, recipe.init.alpha, recipe.init.beta),
            average=options.ema_decay > 0,
        )

    return TrainingStep(schedule, step, fresh_state)
