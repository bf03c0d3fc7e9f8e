"""The two attention modules of the paper (sections 3.2 and 3.3), for features `[B, H, W, C]`."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from danet_jax.models.layers import Computation, Convolution, torch_uniform
from danet_jax.ops.attention import BACKENDS, position_attention
from danet_jax.ops.channel_attention import ENERGIES, channel_attention
from danet_jax.ops.checks import check_arrays, check_choice, check_whole, option_error


class PositionAttention(nn.Module):
    """Position attention module (equations 1 and 2): every position aggregates features from all similar positions.

    It computes `out_j = alpha * sum_i softmax_i(q_j . k_i) v_i + x_j`, without the usual scaling by 1/sqrt(d), where
    alpha is a learnt scalar that is initialised to 0. The result is exact, and memory is linear in the number of
    positions.

    With `mutable=["intermediates"]`, `apply` also returns `queries` and `keys`, `[B, H*W, key_features]` each, from
    which for example `danet_jax.attention_row` computes what a pixel attends to.

    Attributes:
      key_features: number of channels of query and key; None for C / 8, as in the paper.
      backend: implementation of the attention; see `danet_jax.position_attention`.
      dtype, param_dtype, precision, kernel_init, bias_init: as in `flax.linen.Conv`, for the three 1x1 convolutions.
        Kernels and biases are initialised as in torch, U(-1/sqrt(C), 1/sqrt(C)), by default. `precision` applies only
        to these convolutions and has no effect on a CPU; logits and softmax are always computed in float32.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from danet_jax import PositionAttention
      >>> attention, x = PositionAttention(), jnp.ones((1, 6, 8, 32))
      >>> variables = attention.init(jax.random.key(0), x)
      >>> attention.apply(variables, x).shape
      (1, 6, 8, 32)
    """

    key_features: int | None = None
    backend: str = "auto"
    dtype: Any = None
    param_dtype: Any = jnp.float32
    precision: Any = None
    kernel_init: Any = torch_uniform
    bias_init: Any = None

    def __post_init__(self) -> None:
        if self.key_features is not None:
            check_whole("key_features", self.key_features)
        check_choice("backend", self.backend, BACKENDS)
        Computation.of(self)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Applies the module.

        Args:
          x: float `[B, H, W, C]`.
          mask: bool `[B, H, W, 1]`, False at positions that must not be attended to, such as padding.

        Returns:
          `[B, H, W, C]`.

        Raises:
          InputError: an array has the wrong dtype or shape, or `x` has fewer than 8 channels and `key_features` is
            None.
        """
        check_arrays(x=(x, "float B H W C"), mask=(mask, "bool B H W 1 or None"))
        batch, height, width, channels = x.shape
        key_features = channels // 8 if self.key_features is None else self.key_features
        if key_features < 1:
            raise option_error(
                "key_features", None, f"an integer, because C / 8 is 0 for the {channels} channels of x"
            )
        computation = Computation.of(self)

        def project(features: int, name: str) -> jax.Array:
            convolution = Convolution(features, use_bias=True, computation=computation, name=name)
            return convolution(x).reshape(batch, height * width, features)

        query, key = project(key_features, "query"), project(key_features, "key")
        self.sow("intermediates", "queries", query)
        self.sow("intermediates", "keys", key)
        key_mask = None if mask is None else mask.reshape(batch, height * width)
        attended = position_attention(
            query, key, project(channels, "value"), key_mask=key_mask, backend=self.backend
        )
        alpha = self.param("alpha", nn.initializers.zeros, (), self.param_dtype)
        dtype = computation.dtype_with(x, alpha)
        return alpha.astype(dtype) * attended.reshape(x.shape) + x.astype(dtype)


class ChannelAttention(nn.Module):
    """Channel attention module (equations 3 and 4): every channel map aggregates all channel maps.

    It computes `out = beta * (A X) + x`, where X are the features as `[C, H*W]`, and beta is a learnt scalar that is
    initialised to 0.

    Attributes:
      energy: `"paper"` for equation 3, A = softmax(X X^T). `"official"` for the authors' code, with which all published
        checkpoints were trained: it has the opposite sign, A = softmax(rowmax(X X^T) - X X^T).
      dtype, param_dtype: as in `flax.linen.Conv`; X X^T and the softmax are always computed in float32.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from danet_jax import ChannelAttention
      >>> x = jnp.ones((1, 6, 8, 32))
      >>> output, variables = ChannelAttention().init_with_output(jax.random.key(0), x)
      >>> output.shape, variables["params"]["beta"].item()
      ((1, 6, 8, 32), 0.0)
    """

    energy: str = "official"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        check_choice("energy", self.energy, ENERGIES)
        Computation.of(self)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Applies the module.

        Args:
          x: float `[B, H, W, C]`.
          mask: bool `[B, H, W, 1]`, False at positions to ignore, such as padding.

        Returns:
          `[B, H, W, C]`.

        Raises:
          InputError: an array has the wrong dtype or shape.
        """
        check_arrays(x=(x, "float B H W C"), mask=(mask, "bool B H W 1 or None"))
        batch, height, width, channels = x.shape
        beta = self.param("beta", nn.initializers.zeros, (), self.param_dtype)
        dtype = Computation.of(self).dtype_with(x, beta)
        x = x.astype(dtype)
        attended = channel_attention(
            x.reshape(batch, height * width, channels),
            energy=self.energy,
            mask=None if mask is None else mask.reshape(batch, height * width),
        )
        return beta.astype(dtype) * attended.reshape(x.shape) + x
