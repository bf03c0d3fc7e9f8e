"""The building blocks of the network, convolution and batch normalisation, for features `[B, H, W, C]`."""

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
"""The backbone's initialiser: He initialisation with fan-out, N(0, sqrt(2 / (k * k * C_out)))."""

torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""The heads' initialiser: torch's default, U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""


@dataclasses.dataclass(frozen=True)
class Computation:
    """The dtypes, precision and initialisers of convolutions, with the same meaning as in `flax.linen.Conv`.

    Attributes:
      dtype: dtype of the computation; None for the dtype that arrays and parameters promote to.
      param_dtype: dtype of the parameters.
      precision: precision of products; see `jax.lax.Precision`. It has no effect on a CPU, which always multiplies
        float32 in float32.
      kernel_init, bias_init: initialisers. The defaults are torch's; `bias_init=None` selects torch's for the bias.
    """

    dtype: Any = None
    param_dtype: Any = jnp.float32
    precision: Any = None
    kernel_init: Any = torch_uniform
    bias_init: Any = None

    @classmethod
    def of(cls, module: nn.Module, **defaults: Any) -> Computation:
        """Returns the `Computation` that a module's attributes describe.

        Args:
          module: a module with some of the fields as attributes.
          **defaults: values for attributes that are None.

        Raises:
          InputError: a dtype or precision is not supported.
        """
        found = {field.name: getattr(module, field.name, None) for field in dataclasses.fields(cls)}
        check_dtype("dtype", found["dtype"])
        check_dtype("param_dtype", found["param_dtype"])
        check_precision(found["precision"])
        return cls(**{name: defaults.get(name) if value is None else value for name, value in found.items()})

    def dtype_with(self, *arrays: jax.Array) -> Any:
        """Returns the dtype of a computation with these arrays."""
        if self.dtype is not None:
            return jnp.dtype(self.dtype)
        with jax.numpy_dtype_promotion("standard"):
            return jnp.result_type(*arrays)


CONVOLUTION = "convolution"
"""The name of a convolution's output for `jax.checkpoint_policies`."""

REMAT = ("auto", "none", "normalisation", "blocks", "full")
"""What the backward pass recomputes to save memory.

`none` recomputes nothing; `normalisation` the outputs of batch normalisation and ReLU; `blocks` the activations inside
residual blocks; `full` those inside residual blocks, the stem, the head's convolutions and the attention modules.
`auto` is `normalisation` on TPUs, where it saves both memory and memory traffic, and `none` elsewhere.
"""

_RECOMPUTED = {
    "normalisation": ("block", "stem", "convolution"),
    "blocks": ("block",),
    "full": ("block", "stem", "convolution", "attention"),
}


def maybe_remat(module: nn.Module, part: str, remat: str, x: jax.Array) -> Callable[..., Any]:
    """Wraps a module so that the backward pass recomputes its activations, if `remat` requests it.

    Args:
      module: the submodule to call.
      part: the kind of the module: "block", "stem", "convolution" (of the head) or "attention".
      remat: one of `REMAT`.
      x: features on the devices that the network runs on.

    Returns:
      A function that takes the module's arguments: arrays by position, and options such as `train` by keyword.
    """
    if remat == "auto":
        remat = "normalisation" if platform_of(x) == "tpu" else "none"
    if part not in _RECOMPUTED.get(remat, ()):
        return module
    named = jax.checkpoint_policies.save_only_these_names(CONVOLUTION, STATISTICS, RELU_RESULT)
    policy = named if remat == "normalisation" else None

    def call(*arrays: jax.Array | None, **options: Any) -> Any:
        return nn.remat(lambda module, *arrays: module(*arrays, **options), policy=policy)(module, *arrays)

    return call


def valid_mask(x: jax.Array | jax.ShapeDtypeStruct, sizes: jax.typing.ArrayLike | None) -> jax.Array | None:
    """Returns a mask of the positions inside images that were padded at the right and the bottom.

    Args:
      x: features `[B, H, W, C]`, of which only the shape is used.
      sizes: int32 `[B, 2]`, heights and widths of the images within the features; None without padding.

    Returns:
      Bool `[B, H, W, 1]`, or None without padding.
    """
    if sizes is None:
        return None
    sizes = jnp.asarray(sizes)
    rows = jnp.arange(x.shape[1]).reshape(1, -1, 1, 1) < sizes[:, 0].reshape(-1, 1, 1, 1)
    columns = jnp.arange(x.shape[2]).reshape(1, 1, -1, 1) < sizes[:, 1].reshape(-1, 1, 1, 1)
    return rows & columns


def masked(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Returns `x` with zeros where `mask` is False, like the zero padding of a convolution."""
    return x if mask is None else jnp.where(mask, x, jnp.zeros((), x.dtype))


class Convolution(nn.Module):
    """A square convolution, `[B, H, W, C_in]` -> `[B, H', W', features]`.

    As in torch, it is padded with `dilation * (kernel_size // 2)` zeros on every side, whatever the stride ("SAME"
    would shift a strided convolution by one pixel for even sizes).

    Attributes:
      features: number of output channels.
      kernel_size, stride, dilation: the same along both axes.
      use_bias: whether to add a bias.
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
        computation = self.computation
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", computation.kernel_init, shape, computation.param_dtype)
        dtype = computation.dtype_with(x, kernel)
        y = convolution(
            x.astype(dtype),
            kernel.astype(dtype),
            stride=self.stride,
            padding=self.dilation * (self.kernel_size // 2),
            dilation=self.dilation,
            precision=computation.precision,
        )
        y = checkpoint_name(y, CONVOLUTION)
        if self.use_bias:
            bias_init = computation.bias_init or _torch_bias(self.kernel_size**2 * x.shape[-1])
            bias = self.param("bias", bias_init, (self.features,), computation.param_dtype)
            y = y + bias.astype(dtype).reshape(1, 1, 1, -1)
        return y


def _torch_bias(fan_in: int) -> Callable[..., jax.Array]:
    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return jax.random.uniform(key, shape, jnp.float32, -(fan_in**-0.5), fan_in**-0.5).astype(dtype)

    return init


class BatchNorm(nn.Module):
    """Batch normalisation with epsilon 1e-5, momentum 0.9 and the variables of `flax.linen.BatchNorm`.

    Under `jit`, a batch that is sharded over a mesh remains one batch, so statistics are computed over all devices, as
    in torch's SyncBN. The running variance is biased, whereas torch's is unbiased. Statistics and normalisation are
    computed in float32; only the output is rounded to `dtype`.

    Attributes:
      computation: determines the dtype of the output (`dtype`) and of scale and bias (`param_dtype`).
    """

    computation: Computation = Computation()

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, mask: jax.Array | None = None, relu: bool = False
    ) -> jax.Array:
        """Normalises features.

        Args:
          x: features `[B, H, W, C]`.
          train: whether to use the statistics of the batch and update the running ones.
          mask: bool `[B, H, W, 1]`, False at positions that are excluded from the statistics; None to include all.
          relu: whether to apply a ReLU to the output.
        """
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, self.computation.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, self.computation.param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_variance = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        dtype = self.computation.dtype_with(x, scale)
        if not train:
            y = normalize_by(x, running_mean.value, running_variance.value, scale, bias)
            return (nn.relu(y) if relu else y).astype(dtype)
        y, mean, variance = normalize_batch(x, scale, bias, mask, relu=relu, dtype=dtype)
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
