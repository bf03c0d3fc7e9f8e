"""Position attention (section 3.2, equations 1 and 2) without parameters: exact, in linear memory, on any device."""

from __future__ import annotations

import jax

from danet_jax.ops.attention.map import attention_column as attention_column
from danet_jax.ops.attention.map import attention_row as attention_row
from danet_jax.ops.attention.map import row_logsumexp as row_logsumexp
from danet_jax.ops.attention.map import row_statistics as row_statistics
from danet_jax.ops.attention.padding import exclude_keys
from danet_jax.ops.attention.platforms import KERNELS, attention
from danet_jax.ops.attention.rows import attention_by_rows, plain_attention
from danet_jax.ops.checks import check_array, check_name, check_shapes_fit

BACKENDS = (*KERNELS, "rows", "reference")
"""The ways to compute position attention, see `position_attention`."""


def position_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    key_mask: jax.Array | None = None,
    backend: str = "auto",
) -> jax.Array:
    """`out_j = sum_i softmax_i(query_j . key_i) value_i`, without 1/sqrt(d) (equations 1 and 2, before alpha).

    Every backend computes exactly this, logits, softmax and sums in float32; all but `"reference"` in memory
    linear in N and M, in both directions: the gradient recomputes the map piece by piece. Batch and queries
    may be divided over devices, under `jit` each device then computes its part. NaN in gives NaN out.

    Args:
      query: float32 or bfloat16 `[B, N, Ck]`.
      key: `[B, M, Ck]`.
      value: `[B, M, Cv]`; all of one dtype.
      key_mask: bool `[B, M]`, False where a key does not exist, whatever it holds. A query all of whose keys
        are missing gets zeros.
      backend: `"auto"` takes the best of the following for the platform that the program is lowered for.
        `"blockwise"`: tiles in plain XLA, any device. `"splash"`: JAX's TPU kernel. `"cudnn"`: flash attention
        of cuDNN on NVIDIA GPUs since Ampere, bfloat16 or float16. `"rows"`: some queries at a time, in operations
        that every exporter knows; sizes that are symbolic (`jax.export`) are always computed so.
        `"reference"`: the plain form, N x M in memory, with second derivatives.

    Returns:
      `[B, N, Cv]` of the dtype of `value`.

    Raises:
      InputError: the backend does not exist, or cannot run on the platform that the program is lowered for; arrays of
        other kinds or shapes.
      TypeError: the dtypes differ.
    """
    check_name("attention backend", backend, BACKENDS)
    check_array("query", query, "B N Ck", "float")
    check_array("key", key, "B M Ck", "float")
    check_array("value", value, "B M Cv", "float")
    if not query.dtype == key.dtype == value.dtype:
        raise TypeError(
            f"query, key and value must have one dtype, not {query.dtype}, {key.dtype}, {value.dtype}"
        )
    arrays = {"query": (query, "B N Ck"), "key": (key, "B M Ck"), "value": (value, "B M Cv")}
    if key_mask is not None:
        check_array("key_mask", key_mask, "B M", "bool")
        arrays["key_mask"] = (key_mask, "B M")
    check_shapes_fit(**arrays)
    if key_mask is not None:
        query, key, value = exclude_keys(query, key, value, key_mask)
    if backend == "rows" or not all(isinstance(n, int) for n in (*query.shape[:2], key.shape[1])):
        return attention_by_rows(query, key, value)
    if backend == "reference":
        return plain_attention(query, key, value)
    return attention(backend, query, key, value)
