"""The state of training, its initial values, and the step that updates it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from danet_jax.models.danet import refuse_float16_training
from danet_jax.models.intermediates import learnt_scales, queries_and_keys
from danet_jax.ops.attention import row_statistics
from danet_jax.ops.normalize import MEAN, STD, normalize
from danet_jax.training.losses import HardPixels, multi_loss, valid_pixels
from danet_jax.training.mesh import make_mesh

Metrics = dict[str, jax.Array]


class TrainState(flax.struct.PyTreeNode):
    """The state that a training step reads and updates.

    Attributes:
      step: the number of completed steps, int32 `()`.
      params, batch_stats: the network's variables.
      opt_state: the optimizer's state.
      rng: the data of a random key, into which each step folds its number.
      average: the moving average of the variables, `{"params": ..., "batch_stats": ...}`, or None.

    See `create_state` for an example.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    rng: jax.Array
    average: Any = None

    @property
    def variables(self) -> dict[str, Any]:
        """The variables for evaluation and prediction: the moving average if there is one."""
        return self.average or self.trained

    @property
    def progress(self) -> dict[str, Any]:
        """The rest of the state, which is needed only to resume training."""
        progress = {"step": self.step, "opt_state": self.opt_state, "rng": self.rng}
        return progress if self.average is None else progress | {"trained": self.trained}

    @property
    def trained(self) -> dict[str, Any]:
        """The variables that the optimizer updates."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    def resumed(self, variables: Mapping[str, Any], progress: Mapping[str, Any]) -> TrainState:
        """Returns the state with the given `variables` and `progress`."""
        rest = dict(progress)
        if self.average is None:
            return self.replace(**variables, **rest)
        return self.replace(average=dict(variables), **rest.pop("trained"), **rest)


@dataclasses.dataclass(frozen=True)
class AttentionStart:
    """Initial values of the attention modules; the defaults are the paper's.

    While alpha is 0, query and key receive no gradient. With torch's initial range of query and key, the output of
    position attention is initially the average over the image, because the attention is almost uniform.

    Attributes:
      query_key_gain: factor of torch's initial range of query and key. The spread of the logits grows with its square.
      alpha: initial scale of position attention, 0 in the paper.
      beta: initial scale of channel attention, 0 in the paper.
    """

    query_key_gain: float = 1.0
    alpha: float = 0.0
    beta: float = 0.0

    def apply(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Returns newly initialised `params` of a `DANet` with these initial values."""
        flat = flatten_dict(dict(params))
        for path, leaf in flat.items():
            if path[-1] in ("alpha", "beta"):
                flat[path] = leaf + getattr(self, path[-1])
            elif path[-2:-1] in (("query",), ("key",)):
                flat[path] = leaf * self.query_key_gain
        return unflatten_dict(flat)


def create_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    seed: int = 0,
    mesh: Mesh | None = None,
    *,
    variables: Mapping[str, Any] | None = None,
    start: AttentionStart | None = None,
    average: bool = False,
) -> TrainState:
    """Creates the initial training state, directly on the devices of `mesh`.

    Args:
      model: a `DANet`.
      optimizer: an optimizer, for example `sgd(poly_schedule(...))`.
      seed: seed for the initial parameters and for dropout.
      mesh: the mesh on whose devices the state is replicated; None for all devices.
      variables: `params` and `batch_stats` to start from, for example pretrained ones; None for those of `model.init`.
        They are copied, because training steps donate their state.
      start: initial values of the attention modules if `variables` is None; None for the paper's.
      average: whether to keep a moving average of the variables, which starts with the first step.

    Returns:
      The state before the first step.

    Example:
      >>> import jax
      >>> from danet_jax import DANet, create_state, poly_schedule, sgd
      >>> def initial():
      ...     return create_state(DANet(num_classes=3), sgd(poly_schedule(0.01, steps=100)))
      >>> state = jax.eval_shape(initial)  # initial() creates the values
      >>> state.step.shape, sorted(state.variables)
      ((), ['batch_stats', 'params'])
    """

    def init(variables: Mapping[str, Any] | None) -> TrainState:
        init_key, step_key = jax.random.split(jax.random.key(seed))
        if variables is None:
            # Parameters do not depend on the size of the images, and small images are traced fastest.
            variables = model.init(init_key, jnp.zeros((1, 32, 32, 3)))
            if start is not None:
                variables = {**variables, "params": start.apply(variables["params"])}
        variables = {"params": variables["params"], "batch_stats": variables["batch_stats"]}
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            **variables,
            opt_state=optimizer.init(variables["params"]),
            rng=jax.random.key_data(step_key),
            average=variables if average else None,
        )

    mesh = make_mesh() if mesh is None else mesh
    if variables is not None:
        variables = jax.tree.map(lambda x: jnp.array(x, copy=True), dict(variables))
    return jax.jit(init, out_shardings=NamedSharding(mesh, PartitionSpec()))(variables)


def make_train_step(
    model: nn.Module,
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
    bits: int = 8,
) -> Callable[[TrainState, Mapping[str, jax.Array]], tuple[TrainState, Metrics]]:
    """Returns the compiled training step `(state, batch) -> (state, metrics)`, which donates the old state.

    Args:
      model: a `DANet`.
      optimizer: the optimizer that was passed to `create_state`.
      loss_weights: weights of the fusion, position and channel losses.
      auxiliary_weight: weight of the auxiliary head's loss.
      hard_pixels: restricts the loss to hard pixels; see `multi_loss`.
      class_weights: weights of the classes in the loss; see `multi_loss`.
      average_decay: decay d of the moving average of parameters and batch statistics, if the state keeps one. After the
        first step, the average equals the variables; later steps compute `d * average + (1 - d) * new`, as mmengine's
        `ExponentialMovingAverage` does with `update_buffers` and a momentum of 1 - d.
      accumulation: the number of parts in which a batch is processed to save memory. The loss remains the mean over the
        valid pixels of the whole batch, but batch statistics are those of a part.
      mean: channel means for normalising the images; see `danet_jax.normalize`.
      std: channel standard deviations for normalising the images; see `danet_jax.normalize`.
      bits: the bits per channel of the images, which are uint16 if there are more than 8.

    Returns:
      A function of a state and a batch. The batch is a dict of "image", uint8 `[B, H, W, 3]`, and "label", uint8
      `[B, H, W]`. It may be sharded in any way; losses and batch statistics are those of the global batch. The metrics
      are float32 scalars, as far as they apply to the network: `loss`, `loss_fusion`, `loss_position`, `loss_channel`,
      `loss_auxiliary`, `gradient_norm`, `parameter_norm`, `alpha`, `beta`, and `attention_spread` and
      `attention_entropy` of the position attention map; see `danet_jax.ops.attention.row_statistics`.

    Raises:
      InputError: the network computes in float16.

    Example:
      >>> import jax, numpy as np
      >>> from danet_jax import DANet, create_state, make_train_step, poly_schedule, sgd
      >>> model, optimizer = DANet(num_classes=3), sgd(poly_schedule(0.01, steps=100))
      >>> train_step = make_train_step(model, optimizer)
      >>> batch = {"image": np.zeros((2, 64, 64, 3), np.uint8), "label": np.zeros((2, 64, 64), np.uint8)}
      >>> def first_step():
      ...     return train_step(create_state(model, optimizer), batch)
      >>> state, metrics = jax.eval_shape(first_step)  # first_step() computes what this traces
      >>> metrics["loss"].shape, sorted(state.variables)
      ((), ['batch_stats', 'params'])
    """
    refuse_float16_training(model)

    def loss(params: Any, batch_stats: Any, part: Mapping[str, jax.Array], key: jax.Array, pixels: jax.Array):
        logits, updates = model.apply(
            {"params": params, "batch_stats": batch_stats},
            normalize(part["image"], mean, std, bits),
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
            # The metrics of the parts are summed, so each contributes its share.
            metrics |= {
                "attention_spread": spread / accumulation,
                "attention_entropy": entropy / accumulation,
            }
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
        metrics = {name: x.astype(jnp.float32) for name, x in (metrics | learnt_scales(params)).items()}
        new = state.replace(step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state)
        if state.average is not None:
            decay = jnp.where(state.step == 0, jnp.float32(0), jnp.float32(average_decay))

            def mixed(old: jax.Array, new: jax.Array) -> jax.Array:
                old_part, new_part = decay * old.astype(jnp.float32), (1 - decay) * new.astype(jnp.float32)
                return (old_part + new_part).astype(old.dtype)

            new = new.replace(average=jax.tree.map(mixed, state.average, new.trained))
        return new, metrics

    return jax.jit(step, donate_argnums=0)


def _in_parts(
    one_part: Callable[[Any, Mapping[str, jax.Array], jax.Array], tuple[Any, Any]],
    batch_stats: Any,
    batch: Mapping[str, jax.Array],
    key: jax.Array,
    count: int,
) -> tuple[Any, Any]:
    """Applies `one_part` to `count` parts of a batch; returns the last batch statistics and the sum of the results."""
    if count == 1:
        return one_part(batch_stats, batch, key)
    # Part i takes every `count`-th example, so that each part stays spread over all devices.
    parts = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0), dict(batch))
    keys = jax.random.split(key, count)

    def body(carry: tuple[Any, Any], inputs: tuple[Any, jax.Array]) -> tuple[tuple[Any, Any], None]:
        batch_stats, total = carry
        batch_stats, new = one_part(batch_stats, *inputs)
        return (batch_stats, jax.tree.map(jnp.add, total, new)), None

    first = jax.tree.map(lambda x: x[0], parts)
    _, shapes = jax.eval_shape(one_part, batch_stats, first, keys[0])
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(body, (batch_stats, zeros), (parts, keys))[0]
