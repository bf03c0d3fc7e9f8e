"""The two attention modules of the paper (sections 3.2 and 3.3), for any feature map `[B, H, W, C]`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from danet_jax.errors import InputError
from danet_jax.models.layers import Convolution
from danet_jax.ops.attention import BACKENDS, position_attention
from danet_jax.ops.channel_attention import ENERGIES, channel_attention
from danet_jax.ops.checks import check_array, check_dtype, check_name, check_whole


class PositionAttention(nn.Module):
    """Position attention module, equations 1 and 2: every place gathers from all places that resemble it.

    `out_j = alpha * sum_i softmax_i(q_j . k_i) v_i + x_j`, without the 1/sqrt(d) of other attentions,
    alpha a learnt scalar that starts at 0. Exact, in memory linear in the number of places.

    Attributes:
      key_features: channels of query and key; None is the paper's C / 8.
      backend: see `danet_jax.ops.attention.position_attention`.
      dtype: of the computation; the softmax is in float32 always.

    Sown into the collection `attention` are `queries` and `keys`, `[B, H*W, C/8]` each, for those who want to see
    what a pixel attends to (`mutable=["attention"]`, then `danet_jax.ops.attention.attention_row`).
    """

    key_features: int | None = None
    backend: str = "auto"
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        if self.key_features is not None:
            check_whole("key_features", self.key_features)
        check_name("backend", self.backend, BACKENDS)
        check_dtype(self.dtype)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """`[B, H, W, C]` -> the same shape; places where `mask` (bool `[B, H, W, 1]`) is False do not exist."""
        check_array("x", x, "B H W C", "float")
        batch, height, width, channels = x.shape
        key_features = channels // 8 if self.key_features is None else self.key_features
        if key_features < 1:
            raise InputError(
                f"x has {channels} channels, an eighth of which is none: give key_features, at least 1"
            )

        def project(features: int, name: str) -> jax.Array:
            projected = Convolution(features, use_bias=True, dtype=self.dtype, name=name)(x)
            return projected.reshape(batch, height * width, features)

        query, key = project(key_features, "query"), project(key_features, "key")
        self.sow("attention", "queries", query)
        self.sow("attention", "keys", key)
        key_mask = None if mask is None else mask.reshape(batch, height * width)
        attended = position_attention(
            query, key, project(channels, "value"), key_mask=key_mask, backend=self.backend
        )
        alpha = self.param("alpha", nn.initializers.zeros, (), jnp.float32)
        return alpha.astype(self.dtype) * attended.reshape(x.shape) + x.astype(self.dtype)


class ChannelAttention(nn.Module):
    """Channel attention module, equations 3 and 4: every channel map gathers from all channel maps.

    `out = beta * (A X) + x` with X the features as `[C, H*W]` and beta a learnt scalar that starts at 0.

    Attributes:
      energy: `"paper"` is equation 3, A = softmax(X X^T); `"official"`, which every published checkpoint
        was trained with, is the authors' code, A = softmax(rowmax(X X^T) - X X^T): the opposite sign.
      dtype: of the computation; X X^T and the softmax are in float32 always.
    """

    energy: str = "official"
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        check_name("energy", self.energy, ENERGIES)
        check_dtype(self.dtype)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """`[B, H, W, C]` -> the same shape; places where `mask` (bool `[B, H, W, 1]`) is False do not exist."""
        check_array("x", x, "B H W C", "float")
        batch, height, width, channels = x.shape
        x = x.astype(self.dtype)
        attended = channel_attention(
            x.reshape(batch, height * width, channels),
            energy=self.energy,
            mask=None if mask is None else mask.reshape(batch, height * width),
        )
        beta = self.param("beta", nn.initializers.zeros, (), jnp.float32)
        return beta.astype(self.dtype) * attended.reshape(x.shape) + x


SCALES = {"alpha": "position_attention", "beta": "channel_attention"}
"""The learnt scales, and the module of a network's head that each belongs to."""


def learnt_scales(params: Mapping[str, Any]) -> dict[str, Any]:
    """Those of alpha and beta that there are in a network's parameters, by name."""
    head = params.get("head", {})
    return {name: head[module][name] for name, module in SCALES.items() if module in head}


def with_scales(params: Mapping[str, Any], scales: Mapping[str, Any]) -> dict[str, Any]:
    """A network's parameters with others of its `learnt_scales`."""
    modules = {SCALES[name]: {**params["head"][SCALES[name]], name: value} for name, value in scales.items()}
    return {**params, "head": {**params["head"], **modules}}


def sown_attention(collections: Mapping[str, Any]) -> tuple[jax.Array, jax.Array] | None:
    """Queries and keys `[B, H*W, C/8]` of position attention, if a network that has it sowed them when applied."""
    sown = collections.get("attention", {}).get("head", {}).get("position_attention")
    # Variables of `init` hold what was sown then: this came last.
    return (sown["queries"][-1], sown["keys"][-1]) if sown else None
