"""Convolution and batch normalisation as the network uses them, on `[B, H, W, C]` features."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from danet_jax.ops.batch_norm import STATISTICS, normalize_batch, normalize_by
from danet_jax.ops.convolution import convolution
from danet_jax.ops.platform import platform_of
from danet_jax.ops.relu import RESULT

# He's initialisation over the outputs, N(0, sqrt(2 / (k * k * C_out))): the backbone's.
he_normal_over_outputs = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# torch's default, U(-1/sqrt(fan_in), 1/sqrt(fan_in)): the heads'.
torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


CONVOLUTION = "convolution"
"""Name of a convolution's result for `jax.checkpoint_policies`."""

REMAT = ("auto", "none", "normalisation", "blocks", "full")
"""What the backward pass computes anew instead of keeping it: nothing, what batch normalisation and ReLU make of
convolutions, what lies inside residual blocks, or that and what lies inside the stem, the head's convolutions and
the attention modules. On a TPU `normalisation` saves memory and traffic both, so there it is what `auto` stands for."""

_PARTS = {
    "normalisation": ("block", "stem", "convolution"),
    "blocks": ("block",),
    "full": ("block", "stem", "convolution", "attention"),
}


def anew(module: Any, part: str, remat: str, x: jax.Array) -> Any:
    """A class of modules, as what a network computes anew under `remat` if it is such a part of it.

    Args:
      module: the class.
      part: "block", "stem", "convolution" (of the head) or "attention".
      remat: one of `REMAT`.
      x: features, on the devices that the network is for.
    """
    if remat == "auto":
        remat = "normalisation" if platform_of(x) == "tpu" else "none"
    if part not in _PARTS.get(remat, ()):
        return module
    named = jax.checkpoint_policies.save_only_these_names(CONVOLUTION, STATISTICS, RESULT)
    return nn.remat(module, policy=named if remat == "normalisation" else None)


def inside(x: jax.Array | jax.ShapeDtypeStruct, sizes: jax.Array) -> jax.Array:
    """Which places of `x` `[B, H, W, C]` lie inside images of `sizes` (int32 `[B, 2]`): bool `[B, H, W, 1]`."""
    rows = jnp.arange(x.shape[1]).reshape(1, -1, 1, 1) < sizes[:, 0].reshape(-1, 1, 1, 1)
    columns = jnp.arange(x.shape[2]).reshape(1, 1, -1, 1) < sizes[:, 1].reshape(-1, 1, 1, 1)
    return rows & columns


def masked(x: jax.Array, places: jax.Array | None) -> jax.Array:
    """`x` with zeros where `places` is False: to a convolution, what lies outside an image is padding."""
    return x if places is None else jnp.where(places, x, jnp.zeros((), x.dtype))


class Convolution(nn.Module):
    """A `kernel_size` square convolution, `[B, H, W, C_in]` -> `[B, H', W', features]`.

    Padded as torch pads: `dilation * (kernel_size // 2)` zeros on every side, whatever the stride
    ('SAME' would shift a strided convolution by one pixel on even sizes).
    """

    features: int
    kernel_size: int = 1
    stride: int = 1
    dilation: int = 1
    use_bias: bool = False
    kernel_init: Any = torch_uniform
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        y = convolution(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            stride=self.stride,
            padding=self.dilation * (self.kernel_size // 2),
            dilation=self.dilation,
        )
        y = checkpoint_name(y, CONVOLUTION)
        if self.use_bias:
            bound = (self.kernel_size**2 * x.shape[-1]) ** -0.5

            def bias_init(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
                return jax.random.uniform(key, shape, jnp.float32, -bound, bound)

            bias = self.param("bias", bias_init, (self.features,))
            y = y + bias.astype(self.dtype).reshape(1, 1, 1, -1)
        return y


class BatchNorm(nn.Module):
    """Batch normalisation: eps 1e-5, running momentum 0.9, over all of the batch; `flax.linen.BatchNorm`'s variables.

    Under `jit` a batch sharded over a mesh is still one batch, so these are the statistics over every
    device, torch's SyncBN. The running variance is the biased one; torch keeps the unbiased. Statistics and
    normalisation are in float32 whatever the compute dtype; only the result is rounded to it.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, places: jax.Array | None = None, relu: bool = False
    ) -> jax.Array:
        """`[B, H, W, C]` -> the same shape; places where `places` (bool `[B, H, W, 1]`) is False do not count."""
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_variance = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        if not train:
            y = normalize_by(x, running_mean.value, running_variance.value, scale, bias)
            return (nn.relu(y) if relu else y).astype(self.dtype)
        y, mean, variance = normalize_batch(x, scale, bias, places, relu=relu, dtype=self.dtype)
        if not self.is_initializing():
            for running, new in ((running_mean, mean), (running_variance, variance)):
                running.value = 0.9 * running.value + 0.1 * new.astype(running.value.dtype)
        return y


class ConvBNReLU(nn.Module):
    """3x3 convolution without bias, batch normalisation, ReLU: `[B, H, W, C]` -> `[B, H, W, features]`."""

    features: int
    train: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = Convolution(self.features, 3, dtype=self.dtype, name="conv")(x)
        return BatchNorm(self.dtype, name="bn")(x, train=self.train, relu=True)
