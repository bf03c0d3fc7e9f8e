"""Position attention with cuDNN's flash attention, unscaled, with the channels of the values divided into heads."""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp

from danet_jax.ops.attention.common import once_differentiable

WIDEST_HEAD = 128
"""The maximum number of channels per head that cuDNN supports on all GPUs since Ampere."""


def refusal(query: jax.Array, value: jax.Array) -> str | None:
    """Returns why cuDNN cannot compute this attention, or None if it can."""
    if reason := dtype_refusal(value.dtype):
        return f"cuDNN's flash attention {reason}"
    if query.shape[-1] > WIDEST_HEAD:
        return f"cuDNN's flash attention takes at most {WIDEST_HEAD} channels of query, not {query.shape[-1]}"
    capability = _compute_capability()
    if capability is not None and capability < (8, 0):
        return f"cuDNN's flash attention needs compute capability 8.0, this GPU has {'.'.join(map(str, capability))}"
    return None


def dtype_refusal(dtype: Any) -> str | None:
    """Returns why cuDNN does not compute in `dtype`, or None if it does."""
    name = jnp.dtype(dtype).name
    return None if name in ("bfloat16", "float16") else f"takes bfloat16 and float16, not {name}"


@jax.custom_vjp
def attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Computes `softmax(query key^T) value`, `[B, N, Cv]` of the dtype of `value`."""
    return _forward(query, key, value)[0]


def _forward(query: jax.Array, key: jax.Array, value: jax.Array) -> tuple[jax.Array, Any]:
    query, key, value = once_differentiable(query, key, value)
    width, heads = _heads(query, value)
    output, logsumexp = flash_forward(
        _repeat(query, width, heads), _repeat(key, width, heads), _chunks(value, width, heads)
    )
    # All heads have the same logsumexp, so only that of one head is kept.
    return _join(output, value), (query, key, value, output, logsumexp[:, :1])


def _backward(residuals: Any, cotangent: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    query, key, value, output, logsumexp = residuals
    width, heads = _heads(query, value)
    dquery, dkey, dvalue = flash_backward(
        _repeat(query, width, heads),
        _repeat(key, width, heads),
        _chunks(value, width, heads),
        jnp.broadcast_to(logsumexp, (logsumexp.shape[0], heads, logsumexp.shape[2])),
        _chunks(cotangent, width, heads),
        output,
    )

    def summed(x: jax.Array) -> jax.Array:
        return jnp.sum(x[..., : query.shape[-1]].astype(jnp.float32), axis=2).astype(x.dtype)

    return summed(dquery), summed(dkey), _join(dvalue, value)


attention.defvjp(_forward, _backward)


def _heads(query: jax.Array, value: jax.Array) -> tuple[int, int]:
    """Returns the width of a head, to which queries and chunks of the values are padded, and the number of heads."""
    width = 64 if max(query.shape[-1], value.shape[-1]) <= 64 else WIDEST_HEAD
    return width, -(-value.shape[-1] // width)


def _repeat(x: jax.Array, width: int, heads: int) -> jax.Array:
    """Returns `[B, N, C]` with all channels in every head, `[B, N, heads, width]`."""
    return jnp.broadcast_to(_chunks(x, width, 1), (*x.shape[:2], heads, width))


def _chunks(x: jax.Array, width: int, heads: int) -> jax.Array:
    """Returns `[B, N, C]` with the channels divided into heads, `[B, N, heads, width]`."""
    x = jnp.pad(x, ((0, 0), (0, 0), (0, heads * width - x.shape[-1])))
    return x.reshape(*x.shape[:2], heads, width)


def _join(x: jax.Array, value: jax.Array) -> jax.Array:
    """Returns `[B, N, heads, width]` with the channels of `value`, `[B, N, Cv]`."""
    return x.reshape(*x.shape[:2], -1)[..., : value.shape[-1]]


def _compute_capability() -> tuple[int, ...] | None:
    """Returns the compute capability of this machine's GPU, or None if it has none."""
    try:
        device = jax.devices("cuda")[0]
    except RuntimeError:
        return None
    return tuple(int(part) for part in device.compute_capability.split("."))


# cuDNN's kernels are called by their names in XLA. JAX's public function, jax.nn.dot_product_attention, requires cuDNN
# during tracing, so that a machine without cuDNN could not compile a program for one that has it, and it returns the
# logsumexp only in 16 bits.


def flash_forward(query: jax.Array, key: jax.Array, value: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Computes attention of each head, `[B, N, heads, width]`, and its logsumexp, float32 `[B, heads, N]`."""
    products = {
        "bmm1": ((3, 3), (0, 2), (0, 2)),  # [B, N, heads, C], [B, M, heads, C] -> [B, heads, N, M]
        "bmm2": ((3, 1), (0, 1), (0, 2)),  # [B, heads, N, M], [B, M, heads, C] -> [B, heads, N, C]
    }
    batch, positions, heads, _ = query.shape
    results = _by_head(query, value), jax.ShapeDtypeStruct((batch, heads, positions), jnp.float32)
    output, logsumexp = _call("__cudnn$fmhaSoftmax", results, products, query, key, value)
    return jnp.swapaxes(output, 1, 2), logsumexp


def flash_backward(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    logsumexp: jax.Array,
    cotangent: jax.Array,
    output: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes the gradients of query, key and value of each head, `[B, N, heads, width]`."""
    products = {
        "bmm1_grad_gemm1": ((2, 1), (0, 1), (0, 2)),
        "bmm1_grad_gemm2": ((3, 1), (0, 1), (0, 2)),
        "bmm2_grad_gemm1": ((2, 1), (0, 1), (0, 2)),
        "bmm2_grad_gemm2": ((3, 3), (0, 2), (0, 2)),
    }
    results = tuple(_by_head(x, x) for x in (query, key, value))
    arrays = query, key, value, logsumexp, cotangent, output
    dquery, dkey, dvalue = _call("__cudnn$fmhaSoftmaxBackward", results, products, *arrays)
    return jnp.swapaxes(dquery, 1, 2), jnp.swapaxes(dkey, 1, 2), jnp.swapaxes(dvalue, 1, 2)


def _by_head(positions: jax.Array, channels: jax.Array) -> jax.ShapeDtypeStruct:
    batch, count, heads, _ = positions.shape
    return jax.ShapeDtypeStruct((batch, heads, count, channels.shape[3]), channels.dtype)


def _call(
    target: str,
    results: tuple[jax.ShapeDtypeStruct, ...],
    products: dict[str, tuple[tuple[int, int], tuple[int, int], tuple[int, int]]],
    *arrays: jax.Array,
) -> list[jax.Array]:
    """Calls a kernel of cuDNN.

    Args:
      target: the kernel's name in XLA.
      results: shapes and dtypes of the results.
      products: for each matrix product of the kernel, the contracted axes and the batch axes of both sides.
      *arrays: the arguments of the kernel.
    """
    query, key = arrays[:2]
    batch, positions, heads, _ = query.shape
    attention = {
        "algorithm": {
            "algo_id": "0",
            "math_type": "TENSOR_OP_MATH",
            "tuning_knobs": {"17": "1", "24": "0"},
            "is_cudnn_frontend": True,
            "workspace_size": "0",
        },
        "fmha_scale": 1.0,
        "intermediate_tensor_shape": {
            "element_type": {"bfloat16": "BF16", "float16": "F16"}[query.dtype.name],
            "dimensions": [str(n) for n in (batch, heads, positions, key.shape[1])],
            "layout": {"minor_to_major": ["3", "2", "1", "0"]},
            "is_dynamic_dimension": [False] * 4,
        },
        "is_flash_attention": True,
        "mask_type": "NO_MASK",
        "dropout_rate": 0.0,
        "seed": 0,
        "sliding_window_length": 0,
        "max_seg_per_batch": 1,
        "is_paged_attention": False,
    }
    for name, (contracting, left_batch, right_batch) in products.items():
        attention[f"{name}_dot_dimension_numbers"] = {
            "lhs_contracting_dimensions": [str(contracting[0])],
            "rhs_contracting_dimensions": [str(contracting[1])],
            "lhs_batch_dimensions": [str(axis) for axis in left_batch],
            "rhs_batch_dimensions": [str(axis) for axis in right_batch],
        }
    *outputs, _ = jax.ffi.ffi_call(
        target,
        (*results, jax.ShapeDtypeStruct((0,), jnp.uint8)),  # cuDNN's workspace, whose size XLA sets.
        vmap_method="sequential",
        # Arrays with four axes are stored with heads after positions, whatever the order of their axes.
        output_layouts=[(0, 2, 1, 3) if len(x.shape) == 4 else (0, 1, 2) for x in results] + [(0,)],
        custom_call_api_version=2,
        legacy_backend_config=json.dumps({"operation_queue_id": "0", "cudnn_fmha_backend_config": attention}),
    )(*arrays)
    return outputs
