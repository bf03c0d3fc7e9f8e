"""The state of training, one pytree, and the step that advances it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from danet_jax.models.danet import DANet
from danet_jax.models.insight import learnt_scales, queries_and_keys
from danet_jax.ops.attention import row_statistics
from danet_jax.ops.normalize import MEAN, STD, normalize
from danet_jax.training.attention_start import AttentionStart
from danet_jax.training.losses import HardPixels, multi_loss, valid_pixels

Metrics = dict[str, jax.Array]


class TrainState(flax.struct.PyTreeNode):
    """All that a step reads and writes.

    `rng` is the data of a key; each step folds its number into it. `average` is the moving average of parameters
    and batch statistics, `{"params": ..., "batch_stats": ...}`, where one is kept.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    rng: jax.Array
    average: Any = None

    @property
    def variables(self) -> dict[str, Any]:
        """What the network is applied with: the moving average where one is kept."""
        return self.average or self.trained

    @property
    def progress(self) -> dict[str, Any]:
        """The rest: what only going on with training needs."""
        progress = {"step": self.step, "opt_state": self.opt_state, "rng": self.rng}
        return progress if self.average is None else progress | {"trained": self.trained}

    @property
    def trained(self) -> dict[str, Any]:
        """What a step changes: with a moving average, the weights that it is the average of."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    def resumed(self, variables: Mapping[str, Any], progress: Mapping[str, Any]) -> TrainState:
        """The state whose `variables` and `progress` these are."""
        rest = dict(progress)
        if self.average is None:
            return self.replace(**variables, **rest)
        return self.replace(average=dict(variables), **rest.pop("trained"), **rest)


def create_state(
    model: DANet,
    optimizer: optax.GradientTransformation,
    seed: int,
    mesh: Mesh,
    *,
    start: AttentionStart | None = None,
    average: bool = False,
) -> TrainState:
    """A fresh state, made on the devices of `mesh`, without a copy on the host.

    `start` is that of the attention modules, None the paper's. `average` says whether a moving average is kept; the
    first step is where it starts.
    """

    def init() -> TrainState:
        init_key, step_key = jax.random.split(jax.random.key(seed))
        # Parameters do not depend on the size of the images: the smallest is the quickest to trace.
        variables = model.init(init_key, jnp.zeros((1, 32, 32, 3)))
        params = variables["params"] if start is None else start.apply(variables["params"])
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=variables["batch_stats"],
            opt_state=optimizer.init(params),
            rng=jax.random.key_data(step_key),
            average={"params": params, "batch_stats": variables["batch_stats"]} if average else None,
        )

    replicated = NamedSharding(mesh, PartitionSpec())
    return jax.jit(init, out_shardings=replicated)()


def make_train_step(
    model: DANet,
    optimizer: optax.GradientTransformation,
    *,
    loss_weights: tuple[float, ...] = (1.0, 1.0, 1.0),
    auxiliary_weight: float = 0.4,
    hard_pixels: HardPixels | None = None,
    class_weights: tuple[float, ...] | None = None,
    average_decay: float = 0.0,
    accumulation: int = 1,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> Callable[[TrainState, Mapping[str, jax.Array]], tuple[TrainState, Metrics]]:
    """The jit-compiled training step `(state, batch) -> (state, metrics)`; the old state is donated.

    `batch` is `{"image": uint8 [B, H, W, 3], "label": uint8 [B, H, W]}`, sharded in any way: losses and
    batch statistics are those of the global batch. With `accumulation` of A the batch is gone through in A
    parts, in a fraction of the memory; the loss remains the mean over the valid pixels of the whole batch,
    and batch statistics are those of a part. Images are normalised by `mean` and `std` (see `normalize`).

    `hard_pixels` restricts the loss, `class_weights` weigh it, see `multi_loss`. With `average_decay` of d, and a state
    that keeps one, the average is that of the first step and then `d * average + (1 - d) * new`, of parameters and of
    batch statistics, as mmengine's `ExponentialMovingAverage` with `update_buffers` and momentum 1 - d.

    `metrics` holds float32 scalars, those that the network has: `loss`, `loss_fusion`, `loss_position`,
    `loss_channel`, `loss_auxiliary`, `gradient_norm`, `parameter_norm`, `alpha`, `beta`, and of the position
    attention map `attention_spread` and `attention_entropy`, see `row_statistics`.
    """

    def loss(params: Any, batch_stats: Any, part: Mapping[str, jax.Array], key: jax.Array, pixels: jax.Array):
        logits, updates = model.apply(
            {"params": params, "batch_stats": batch_stats},
            normalize(part["image"], mean, std),
            train=True,
            upsample=False,
            rngs={"dropout": key},
            mutable=["batch_stats", "intermediates"],
        )
        total, parts = multi_loss(
            logits,
            part["label"],
            pixels,
            align_corners=model.align_corners,
            weights=loss_weights,
            auxiliary_weight=auxiliary_weight,
            hard_pixels=hard_pixels,
            class_weights=class_weights,
        )
        metrics = {"loss": total, **parts}
        if attention := queries_and_keys(updates):
            spread, entropy = row_statistics(*jax.lax.stop_gradient(attention))
            # Of several parts, metrics are added up.
            metrics["attention_spread"] = spread / accumulation
            metrics["attention_entropy"] = entropy / accumulation
        return total, (updates["batch_stats"], metrics)

    gradients_of = jax.value_and_grad(loss, has_aux=True)

    def step(state: TrainState, batch: Mapping[str, jax.Array]) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
        pixels = valid_pixels(batch["label"])

        def one_part(batch_stats: Any, part: Mapping[str, jax.Array], key: jax.Array):
            (_, (batch_stats, metrics)), gradients = gradients_of(
                state.params, batch_stats, part, key, pixels
            )
            return batch_stats, (gradients, metrics)

        batch_stats, (gradients, metrics) = _in_parts(one_part, state.batch_stats, batch, key, accumulation)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics["gradient_norm"] = optax.tree.norm(gradients)
        metrics["parameter_norm"] = optax.tree.norm(params)
        metrics |= learnt_scales(params)
        new = state.replace(step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state)
        if state.average is not None:
            decay = jnp.where(state.step == 0, jnp.float32(0), jnp.float32(average_decay))
            averaged = jax.tree.map(
                lambda old, new: decay * old + (1 - decay) * new,
                state.average,
                {"params": params, "batch_stats": batch_stats},
            )
            new = new.replace(average=averaged)
        return new, metrics

    return jax.jit(step, donate_argnums=0)


def _in_parts(
    one_part: Callable[[Any, Mapping[str, jax.Array], jax.Array], tuple[Any, Any]],
    batch_stats: Any,
    batch: Mapping[str, jax.Array],
    key: jax.Array,
    count: int,
) -> tuple[Any, Any]:
    """Batch statistics after `one_part` of each of `count` parts of a batch, and the sum of what it gives besides."""
    if count == 1:
        return one_part(batch_stats, batch, key)
    # Part i takes every so-manyth example, so that each part stays spread over all devices.
    parts = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0), dict(batch))
    keys = jax.random.split(key, count)

    def body(carry: tuple[Any, Any], inputs: tuple[Any, jax.Array]) -> tuple[tuple[Any, Any], None]:
        batch_stats, so_far = carry
        batch_stats, new = one_part(batch_stats, *inputs)
        return (batch_stats, jax.tree.map(jnp.add, so_far, new)), None

    first = jax.tree.map(lambda x: x[0], parts)
    _, shapes = jax.eval_shape(one_part, batch_stats, first, keys[0])
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(body, (batch_stats, zeros), (parts, keys))[0]
