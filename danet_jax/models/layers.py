"""Convolution and batch normalisation as the network uses them, on `[B, H, W, C]` features."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from danet_jax.ops.convolution import convolution

# He's initialisation over the outputs, N(0, sqrt(2 / (k * k * C_out))): the backbone's.
he_normal_over_outputs = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# torch's default, U(-1/sqrt(fan_in), 1/sqrt(fan_in)): the heads'.
torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def inside(x: jax.Array, sizes: jax.Array) -> jax.Array:
    """Which places of `x` `[B, H, W, C]` lie inside images of `sizes` (int32 `[B, 2]`): bool `[B, H, W, 1]`."""
    rows = jnp.arange(x.shape[1]).reshape(1, -1, 1, 1) < sizes[:, 0].reshape(-1, 1, 1, 1)
    columns = jnp.arange(x.shape[2]).reshape(1, 1, -1, 1) < sizes[:, 1].reshape(-1, 1, 1, 1)
    return rows & columns


def masked(x: jax.Array, sizes: jax.Array | None) -> jax.Array:
    """`x` with zeros outside images of `sizes`: to a convolution, what lies outside an image is padding."""
    return x if sizes is None else jnp.where(inside(x, sizes), x, jnp.zeros((), x.dtype))


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
        if self.use_bias:
            bound = (self.kernel_size**2 * x.shape[-1]) ** -0.5

            def bias_init(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
                return jax.random.uniform(key, shape, jnp.float32, -bound, bound)

            bias = self.param("bias", bias_init, (self.features,))
            y = y + bias.astype(self.dtype).reshape(1, 1, 1, -1)
        return y


def batch_norm(x: jax.Array, name: str, *, train: bool, dtype: Any) -> jax.Array:
    """Batch normalisation in the calling module's scope: eps 1e-5, running momentum 0.9, over all of the batch.

    Under `jit` a batch sharded over a mesh is still one batch, so these are the statistics over every
    device, torch's SyncBN. The running variance is the biased one; torch keeps the unbiased.
    """
    norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype, name=name)
    # Statistics and normalisation are in float32 whatever the compute dtype; only the result is rounded to it.
    return norm(x.astype(jnp.float32))


class ConvBNReLU(nn.Module):
    """3x3 convolution without bias, batch normalisation, ReLU: `[B, H, W, C]` -> `[B, H, W, features]`."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = Convolution(self.features, 3, dtype=self.dtype, name="conv")(x)
        return nn.relu(batch_norm(x, "bn", train=train, dtype=self.dtype))
