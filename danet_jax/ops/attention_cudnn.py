"""Position attention by cuDNN's flash attention: channels of the values as heads, unscaled."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

# The public jax.nn.dot_product_attention looks for a GPU while it is traced, so that nothing could be lowered
# for one elsewhere, and its derivative would repeat the forward pass.
from jax._src.cudnn import fused_attention_stablehlo as cudnn

WIDEST_HEAD = 128
"""The most channels that cuDNN takes per head on every GPU since Ampere."""


def refusal(query: jax.Array, value: jax.Array) -> str | None:
    """Why cuDNN cannot compute this attention, or None if it can."""
    if value.dtype not in (jnp.bfloat16, jnp.float16):
        return f"cuDNN's flash attention takes bfloat16 and float16, not {value.dtype}"
    if query.shape[-1] > WIDEST_HEAD:
        return f"cuDNN's flash attention takes at most {WIDEST_HEAD} channels of query, not {query.shape[-1]}"
    capability = _compute_capability()
    if capability is not None and capability < (8, 0):
        return f"cuDNN's flash attention needs compute capability 8.0, this GPU has {'.'.join(map(str, capability))}"
    return None


def forward(query: jax.Array, key: jax.Array, value: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`softmax(query key^T) value` `[B, N, Cv]`, and the logsumexp of every row `[B, N]`, both float32."""
    width, heads = _heads(query, value)
    output, logsumexp = cudnn._dot_product_attention_fwd_p.bind(
        _repeat(query, width, heads),
        _repeat(key, width, heads),
        _chunks(value, width, heads),
        *_absent(value.dtype),
        **_OPTIONS,
        is_training=True,
    )
    output = output.reshape(*output.shape[:2], heads * width)[..., : value.shape[-1]]
    return output.astype(jnp.float32), logsumexp[:, 0]


def backward(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    output: jax.Array,
    logsumexp: jax.Array,
    cotangent: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of query, key and value, from the output as float32 and its gradient `[B, N, Cv]`."""
    width, heads = _heads(query, value)
    batch, places, channels = query.shape
    dquery, dkey, dvalue = cudnn._dot_product_attention_bwd_p.bind(
        _repeat(query, width, heads),
        _repeat(key, width, heads),
        _chunks(value, width, heads),
        *_absent(value.dtype),
        jnp.broadcast_to(logsumexp[:, None, :], (batch, heads, places)),
        _chunks(output.astype(value.dtype), width, heads),
        _chunks(cotangent, width, heads),
        **_OPTIONS,
    )

    def summed(x: jax.Array) -> jax.Array:
        return jnp.sum(x[..., :channels].astype(jnp.float32), axis=2).astype(x.dtype)

    dvalue = dvalue.reshape(*dvalue.shape[:2], heads * width)[..., : value.shape[-1]]
    return summed(dquery), summed(dkey), dvalue


_OPTIONS: dict[str, Any] = {
    "scale": 1.0,
    "seed": 0,
    "dropout_rate": 0.0,
    "variadic_args": (False, False),
    "mask_type": cudnn.MaskType.NO_MASK,
    "layout": cudnn.AttentionLayout.BTNH.value,
    "sliding_window_length": None,
}


def _heads(query: jax.Array, value: jax.Array) -> tuple[int, int]:
    """The width of a head, which queries and a chunk of values are padded to, and the number of heads."""
    width = 64 if max(query.shape[-1], value.shape[-1]) <= 64 else WIDEST_HEAD
    return width, -(-value.shape[-1] // width)


def _widen(x: jax.Array, width: int) -> jax.Array:
    return jnp.pad(x, ((0, 0), (0, 0), (0, width - x.shape[-1])))


def _repeat(x: jax.Array, width: int, heads: int) -> jax.Array:
    """`[B, N, C]` to the same for every head, `[B, N, heads, width]`."""
    batch, places, _ = x.shape
    return jnp.broadcast_to(_widen(x, width)[:, :, None, :], (batch, places, heads, width))


def _chunks(x: jax.Array, width: int, heads: int) -> jax.Array:
    """`[B, N, C]` to its channels as heads, `[B, N, heads, width]`."""
    return _widen(x, heads * width).reshape(*x.shape[:2], heads, width)


def _absent(dtype: Any) -> tuple[jax.Array, ...]:
    """What stands for no bias, lengths, offsets and pages."""
    return (jnp.zeros(0, dtype),) * 7


def _compute_capability() -> tuple[int, ...] | None:
    """Of the GPU of this machine, None where there is none and a program is lowered for another machine."""
    try:
        device = jax.devices("cuda")[0]
    except RuntimeError:
        return None
    return tuple(int(part) for part in device.compute_capability.split("."))
