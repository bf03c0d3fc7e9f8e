"""Convolution and batch normalisation as the network uses them, on `[B, H, W, C]` features."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from danet_jax.ops.batch_norm import RELU_RESULT, STATISTICS, normalize_batch, normalize_by
from danet_jax.ops.checks import check_dtype, check_precision
from danet_jax.ops.convolution import convolution
from danet_jax.ops.sharding import platform_of

he_normal_over_outputs = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""He's initialisation over the outputs, N(0, sqrt(2 / (k * k * C_out))), which the backbone has."""

torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""torch's default, U(-1/sqrt(fan_in), 1/sqrt(fan_in)), which the heads have."""


@dataclasses.dataclass(frozen=True)
class Computation:
    """How convolutions compute and are initialised; the fields have the meaning that they have in `flax.linen.Conv`.

    Attributes:
      dtype: dtype of the computation; None for what arrays and parameters promote to.
      param_dtype: dtype of the parameters.
      precision: precision of products, see `jax.lax.Precision`. On a CPU it changes nothing: products of float32 are
        always computed in float32 there.
      kernel_init, bias_init: initialisers. The defaults are torch's; for the bias None stands for it.
    """

    dtype: Any = None
    param_dtype: Any = jnp.float32
    precision: Any = None
    kernel_init: Any = torch_uniform
    bias_init: Any = None

    @classmethod
    def of(cls, module: nn.Module, **defaults: Any) -> Computation:
        """Returns the `Computation` of a module with such attributes; `defaults` replace those that are None.

        Raises:
          InputError: a dtype or a precision does not exist.
        """
        found = {field.name: getattr(module, field.name, None) for field in dataclasses.fields(cls)}
        check_dtype("dtype", found["dtype"])
        check_dtype("param_dtype", found["param_dtype"])
        check_precision(found["precision"])
        return cls(**{name: defaults.get(name) if value is None else value for name, value in found.items()})

    def dtype_with(self, *arrays: jax.Array) -> Any:
        """Returns the dtype that these arrays are computed in."""
        if self.dtype is not None:
            return jnp.dtype(self.dtype)
        with jax.numpy_dtype_promotion("standard"):
            return jnp.result_type(*arrays)


CONVOLUTION = "convolution"
"""The name of a convolution's result for `jax.checkpoint_policies`."""

REMAT = ("auto", "none", "normalisation", "blocks", "full")
"""What the backward pass recomputes instead of keeping it: nothing, the results of batch normalisation and ReLU, the
inside of residual blocks, or the inside of blocks, stem, the head's convolutions and the attention modules. `auto`
stands for `normalisation` on a TPU, where it saves both memory and traffic, and for `none` elsewhere."""

_PARTS = {
    "normalisation": ("block", "stem", "convolution"),
    "blocks": ("block",),
    "full": ("block", "stem", "convolution", "attention"),
}


def maybe_remat(module: nn.Module, part: str, remat: str, x: jax.Array) -> Callable[..., Any]:
    """Returns a function that calls `module`; the backward pass recomputes what is inside if `remat` says so.

    Args:
      module: the submodule to call.
      part: what it is: "block", "stem", "convolution" (of the head) or "attention".
      remat: one of `REMAT`.
      x: features, on the devices that the network runs on.

    Returns:
      A function of the module's arguments: arrays by position, and options such as `train` by keyword.
    """
    if remat == "auto":
        remat = "normalisation" if platform_of(x) == "tpu" else "none"
    if part not in _PARTS.get(remat, ()):
        return module
    named = jax.checkpoint_policies.save_only_these_names(CONVOLUTION, STATISTICS, RELU_RESULT)
    policy = named if remat == "normalisation" else None

    def call(*arrays: jax.Array | None, **options: Any) -> Any:
        return nn.remat(lambda module, *arrays: module(*arrays, **options), policy=policy)(module, *arrays)

    return call


def inside(x: jax.Array | jax.ShapeDtypeStruct, sizes: jax.Array) -> jax.Array:
    """Returns which places of `x` `[B, H, W, C]` lie inside images of `sizes` (int32 `[B, 2]`): bool `[B, H, W, 1]`."""
    rows = jnp.arange(x.shape[1]).reshape(1, -1, 1, 1) < sizes[:, 0].reshape(-1, 1, 1, 1)
    columns = jnp.arange(x.shape[2]).reshape(1, 1, -1, 1) < sizes[:, 1].reshape(-1, 1, 1, 1)
    return rows & columns


def masked(x: jax.Array, places: jax.Array | None) -> jax.Array:
    """Returns `x` with zeros where `places` is False, as a convolution pads an image."""
    return x if places is None else jnp.where(places, x, jnp.zeros((), x.dtype))


class Convolution(nn.Module):
    """A square convolution, `[B, H, W, C_in]` -> `[B, H', W', features]`.

    It is padded as torch pads: `dilation * (kernel_size // 2)` zeros on every side, whatever the stride
    ('SAME' would shift a strided convolution by one pixel on even sizes).

    Attributes:
      features: channels of the result.
      kernel_size, stride, dilation: the same along both axes.
      use_bias: whether a bias is added.
      computation: see `Computation`.
    """

    features: int
    kernel_size: int = 1
    stride: int = 1
    dilation: int = 1
    use_bias: bool = False
    computation: Computation = Computation()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        how = self.computation
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", how.kernel_init, shape, how.param_dtype)
        dtype = how.dtype_with(x, kernel)
        y = convolution(
            x.astype(dtype),
            kernel.astype(dtype),
            stride=self.stride,
            padding=self.dilation * (self.kernel_size // 2),
            dilation=self.dilation,
            precision=how.precision,
        )
        y = checkpoint_name(y, CONVOLUTION)
        if self.use_bias:
            bias_init = how.bias_init or _torch_bias(self.kernel_size**2 * x.shape[-1])
            bias = self.param("bias", bias_init, (self.features,), how.param_dtype)
            y = y + bias.astype(dtype).reshape(1, 1, 1, -1)
        return y


def _torch_bias(fan_in: int) -> Callable[..., jax.Array]:
    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return jax.random.uniform(key, shape, jnp.float32, -(fan_in**-0.5), fan_in**-0.5).astype(dtype)

    return init


class BatchNorm(nn.Module):
    """Batch normalisation with eps 1e-5 and running momentum 0.9, with `flax.linen.BatchNorm`'s variables.

    Under `jit` a batch that is sharded over a mesh is still one batch, so statistics are computed over all devices, as
    by torch's SyncBN. The running variance is the biased one; torch keeps the unbiased one. Statistics and
    normalisation are in float32 whatever the dtype; only the result is rounded to it.

    Attributes:
      computation: its `dtype` is that of the result, and its `param_dtype` that of scale and bias.
    """

    computation: Computation = Computation()

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, places: jax.Array | None = None, relu: bool = False
    ) -> jax.Array:
        """Normalises `[B, H, W, C]`; places where `places` (bool `[B, H, W, 1]`) is False do not count."""
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, self.computation.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, self.computation.param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_variance = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        dtype = self.computation.dtype_with(x, scale)
        if not train:
            y = normalize_by(x, running_mean.value, running_variance.value, scale, bias)
            return (nn.relu(y) if relu else y).astype(dtype)
        y, mean, variance = normalize_batch(x, scale, bias, places, relu=relu, dtype=dtype)
        if not self.is_initializing():
            for running, new in ((running_mean, mean), (running_variance, variance)):
                running.value = 0.9 * running.value + 0.1 * new.astype(running.value.dtype)
        return y


class ConvBNReLU(nn.Module):
    """A 3x3 convolution without bias, batch normalisation and ReLU, `[B, H, W, C]` -> `[B, H, W, features]`."""

    features: int
    computation: Computation = Computation()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = Convolution(self.features, 3, computation=self.computation, name="conv")(x)
        return BatchNorm(self.computation, name="bn")(x, train=train, relu=True)
