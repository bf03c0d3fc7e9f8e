"""The two attention modules of the paper (sections 3.2 and 3.3), for any features `[B, H, W, C]`."""

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
    """Position attention module, equations 1 and 2: every position gathers from all positions that resemble it.

    It computes `out_j = alpha * sum_i softmax_i(q_j . k_i) v_i + x_j`, without the 1/sqrt(d) of other attentions, where
    alpha is a learnt scalar that starts at 0. It is exact, in memory linear in the number of positions.

    With `mutable=["intermediates"]`, `apply` also returns `queries` and `keys`, `[B, H*W, key_features]` each, for
    `danet_jax.attention_row` and others that show what a pixel attends to.

    Attributes:
      key_features: channels of query and key; None for the paper's C / 8.
      backend: see `danet_jax.position_attention`.
      dtype, param_dtype, precision, kernel_init, bias_init: as in `flax.linen.Conv`, for the three 1x1 convolutions.
        The defaults of the last two are torch's, U(-1/sqrt(C), 1/sqrt(C)) for kernels and biases. `precision` concerns
        these convolutions only and changes nothing on a CPU; logits and softmax are always computed in float32.

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
        """Applies the module to `x` `[B, H, W, C]`; places where `mask` (bool `[B, H, W, 1]`) is False do not exist.

        Raises:
          InputError: an array has the wrong dtype or shape, or `x` has fewer than 8 channels and there are no
            `key_features`.
        """
        check_arrays(x=(x, "float B H W C"), mask=(mask, "bool B H W 1 or None"))
        batch, height, width, channels = x.shape
        key_features = channels // 8 if self.key_features is None else self.key_features
        if key_features < 1:
            raise option_error(
                "key_features", None, f"given, because x has {channels} channels, fewer than 8"
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
    """Channel attention module, equations 3 and 4: every channel map gathers from all channel maps.

    It computes `out = beta * (A X) + x`, where X is the features as `[C, H*W]` and beta a learnt scalar that starts at
    0.

    Attributes:
      energy: `"paper"` is equation 3, A = softmax(X X^T). `"official"` is the authors' code, with which every published
        checkpoint was trained, A = softmax(rowmax(X X^T) - X X^T): the opposite sign.
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
        """Applies the module to `x` `[B, H, W, C]`; places where `mask` (bool `[B, H, W, 1]`) is False do not exist.

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
