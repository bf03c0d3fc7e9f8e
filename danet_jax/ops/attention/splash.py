"""Position attention with JAX's TPU kernel, splash attention, dense and unscaled."""

from __future__ import annotations

import contextlib
from typing import Any

import jax
import jax.numpy as jnp

from danet_jax.ops.attention.common import blocks, once_differentiable, pad_keys, pad_rows
from danet_jax.ops.attention.tpu_only import tpu_only

LANES = 128
"""The number of lanes of a TPU's vector registers. The size of a block is a multiple of it."""

LARGEST_BLOCK = 512


@jax.custom_vjp
def attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Computes `softmax(query key^T) value`, `[B, N, Cv]` of the dtype of `value`."""

    def run(*arrays: jax.Array) -> list[jax.Array]:
        with _full_precision(value.dtype):
            return [padded_attention(*arrays)]

    return tpu_only(run)(query, key, value)[0]


def _forward(query: jax.Array, key: jax.Array, value: jax.Array) -> tuple[jax.Array, Any]:
    query, key, value = once_differentiable(query, key, value)
    structure: Any = None

    def run(*arrays: jax.Array) -> list[jax.Array]:
        nonlocal structure
        with _full_precision(value.dtype):
            output, pull_back = jax.vjp(padded_attention, *arrays)
        residuals, structure = jax.tree.flatten(pull_back)
        return [output, *residuals]

    output, *residuals = tpu_only(run)(query, key, value)
    return output, jax.tree.unflatten(structure, residuals)


def _backward(pull_back: Any, cotangent: jax.Array) -> tuple[jax.Array, ...]:
    residuals, structure = jax.tree.flatten(pull_back)

    def run(cotangent: jax.Array, *residuals: jax.Array) -> list[jax.Array]:
        # The kernel's own derivative is traced here, so that its precision can be set.
        with _full_precision(cotangent.dtype):
            return list(jax.tree.unflatten(structure, residuals)(cotangent))

    return tuple(tpu_only(run)(cotangent, *residuals))


attention.defvjp(_forward, _backward)


def padded_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, *, interpret: bool = False
) -> jax.Array:
    """Pads the arrays to blocks and computes attention, with images in the kernel's axis of heads."""
    # This import takes a tenth of the time that importing JAX and Flax takes.
    from jax.experimental.pallas.ops.tpu import splash_attention

    queries = query.shape[1]
    (positions, rows), (keys, columns) = _padded(queries), _padded(key.shape[1])
    query, key, value = pad_keys(query, key, value, keys)
    mask = splash_attention.MultiHeadMask([splash_attention.FullMask((positions, keys))] * query.shape[0])
    kernel = splash_attention.make_splash_mha(
        mask,
        head_shards=1,
        q_seq_shards=1,
        block_sizes=splash_attention.BlockSizes(
            block_q=rows,
            block_kv=columns,
            block_q_dkv=rows,
            block_kv_dkv=columns,
            block_q_dq=rows,
            block_kv_dq=columns,
        ),
        interpret=interpret,
    )
    return kernel(pad_rows(query, positions), key, value)[:, :queries]


def _padded(length: int) -> tuple[int, int]:
    """Returns the length padded to complete blocks, and the size of a block."""
    count, size = blocks(-(-length // LANES), LARGEST_BLOCK // LANES, 1)
    return count * size * LANES, size * LANES


def _full_precision(dtype: jnp.dtype) -> contextlib.AbstractContextManager[object]:
    """Returns a context in which float32 is multiplied in float32; a TPU's default is bfloat16."""
    return jax.default_matmul_precision("highest") if dtype == jnp.float32 else contextlib.nullcontext()
