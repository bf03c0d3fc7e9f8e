"""Position attention by JAX's own TPU kernel, splash attention, dense and unscaled."""

from __future__ import annotations

import contextlib

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

from danet_jax.ops.attention_padding import blocks, pad_keys, pad_rows

LANES = 128
"""The width of a TPU's registers: blocks are multiples of it."""

LARGEST_BLOCK = 512


def forward(
    query: jax.Array, key: jax.Array, value: jax.Array, *, interpret: bool = False
) -> tuple[jax.Array, jax.Array]:
    """`softmax(query key^T) value` `[B, N, Cv]`, and the logsumexp of every row `[B, N]`, both float32."""
    places = query.shape[1]
    query, key, value, kernel = _prepare(query, key, value, interpret)
    with _full_precision(value.dtype):
        output, (logsumexp,) = kernel(query, key, value)
    return output[:, :places].astype(jnp.float32), logsumexp[:, :places]


def backward(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    output: jax.Array,
    logsumexp: jax.Array,
    cotangent: jax.Array,
    *,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of query, key and value, from the output as float32 and its gradient `[B, N, Cv]`."""
    (places, channels), keys = query.shape[1:], key.shape[1]
    query, key, value, kernel = _prepare(query, key, value, interpret)
    output, logsumexp, cotangent = (pad_rows(x, query.shape[1]) for x in (output, logsumexp, cotangent))
    residuals = (query, key, value, None, None, output, logsumexp, kernel.dq_mask_info, kernel.dkv_mask_info)
    # The kernels of the backward pass are reached past the kernel's own derivative, which would compute the
    # forward pass once more.
    with _full_precision(value.dtype):
        _, _, _, dquery, dkey, dvalue, *_ = splash_attention_kernel._splash_attention_bwd(
            **kernel.kwargs, res=residuals, do=cotangent
        )
    return dquery[:, :places, :channels], dkey[:, :keys, :channels], dvalue[:, :keys]


def _prepare(
    query: jax.Array, key: jax.Array, value: jax.Array, interpret: bool
) -> tuple[jax.Array, jax.Array, jax.Array, splash_attention_kernel.SplashAttentionKernel]:
    """The arrays padded to whole blocks, and the kernel for them; images stand where it expects heads."""
    (places, rows), (keys, columns) = _padded(query.shape[1]), _padded(key.shape[1])
    query, key, value = pad_keys(query, key, value, keys)
    kernel = _kernel(query.shape[0], places, keys, rows, columns, interpret)
    return pad_rows(query, places), key, value, kernel


def _padded(length: int) -> tuple[int, int]:
    """The length in whole blocks, and the size of a block."""
    count, size = blocks(-(-length // LANES), LARGEST_BLOCK // LANES, 1)
    return count * size * LANES, size * LANES


def _kernel(
    batch: int, places: int, keys: int, rows: int, columns: int, interpret: bool
) -> splash_attention_kernel.SplashAttentionKernel:
    mask = splash_attention_mask.MultiHeadMask([splash_attention_mask.FullMask((places, keys))] * batch)
    return splash_attention_kernel.make_splash_mha(
        mask,
        head_shards=1,
        q_seq_shards=1,
        block_sizes=splash_attention_kernel.BlockSizes(
            block_q=rows,
            block_kv=columns,
            block_q_dkv=rows,
            block_kv_dkv=columns,
            block_q_dq=rows,
            block_kv_dq=columns,
        ),
        save_residuals=True,
        interpret=interpret,
    )


def _full_precision(dtype: jnp.dtype) -> contextlib.AbstractContextManager[object]:
    """Float32 is multiplied as float32: a TPU's default is bfloat16."""
    return jax.default_matmul_precision("highest") if dtype == jnp.float32 else contextlib.nullcontext()
