"""Position attention (section 3.2, equations 1 and 2) without parameters: exact, in linear memory, on any device."""

from __future__ import annotations

import jax

from danet_jax.ops.attention.common import exclude_keys
from danet_jax.ops.attention.map import attention_column as attention_column
from danet_jax.ops.attention.map import attention_row as attention_row
from danet_jax.ops.attention.map import check_key_mask
from danet_jax.ops.attention.map import row_logsumexp as row_logsumexp
from danet_jax.ops.attention.map import row_statistics as row_statistics
from danet_jax.ops.attention.platforms import KERNELS, attention
from danet_jax.ops.attention.platforms import check_backend_runs as check_backend_runs
from danet_jax.ops.attention.rows import attention_by_rows, plain_attention
from danet_jax.ops.checks import check_array, check_name, check_shapes_fit

BACKENDS = (*KERNELS, "rows", "reference")
"""The implementations of position attention, see `position_attention`."""


def position_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    key_mask: jax.Array | None = None,
    backend: str = "auto",
) -> jax.Array:
    """Computes `out_j = sum_i softmax_i(query_j . key_i) value_i`, without 1/sqrt(d) (equations 1 and 2, before alpha).

    Every backend computes exactly this, with logits, softmax and sums in float32; all but `"reference"` in memory
    linear in N and M, in both directions: the gradient recomputes the map piece by piece. Batch and queries
    may be divided over devices; under `jit` each device then computes its part. NaN in gives NaN out.

    Args:
      query: float32, bfloat16 or float16 `[B, N, Ck]`.
      key: `[B, M, Ck]`.
      value: `[B, M, Cv]`; all have one dtype.
      key_mask: bool `[B, M]`, False where a key does not exist, whatever it holds. A query all of whose keys
        are missing gets zeros.
      backend: `"auto"` takes the best of the following for the platform that the program is lowered for.
        `"blockwise"`: tiles in plain XLA, any device. `"splash"`: JAX's TPU kernel. `"cudnn"`: flash attention
        of cuDNN on NVIDIA GPUs since Ampere, bfloat16 or float16. `"rows"`: some queries at a time, in operations
        that every exporter knows; sizes that are symbolic (`jax.export`) are always computed so.
        `"reference"`: the plain form, N x M in memory. It has derivatives of any order and direction (`jax.jvp`,
        `jax.linearize`, `jax.hessian`); the others have first-order gradients (`jax.grad`, `jax.vjp`).

    Returns:
      `[B, N, Cv]` of the dtype of `value`.

    Raises:
      InputError: the backend does not exist, cannot run on the platform that the program is lowered for, or does not
        have second derivatives; an array has the wrong dtype or shape.
      TypeError: the dtypes differ.

    Example:
      >>> import jax
      >>> from danet_jax import position_attention
      >>> query, key, value = (jax.random.normal(jax.random.key(i), (1, 20, 8)) for i in range(3))
      >>> position_attention(query, key, value).shape
      (1, 20, 8)
      >>> def energy(query):
      ...     return position_attention(query, key, value, backend="reference").sum()
      >>> jax.hessian(energy)(query).shape
      (1, 20, 8, 1, 20, 8)
    """
    check_name("backend", backend, BACKENDS)
    check_array("query", query, "B N Ck", "float")
    check_array("key", key, "B M Ck", "float")
    check_array("value", value, "B M Cv", "float")
    if not query.dtype == key.dtype == value.dtype:
        raise TypeError(
            f"query, key and value must have one dtype, not {query.dtype}, {key.dtype}, {value.dtype}"
        )
    check_shapes_fit(query=(query, "B N Ck"), key=(key, "B M Ck"), value=(value, "B M Cv"))
    if key_mask is not None:
        check_key_mask(query, key, key_mask)
        query, key, value = exclude_keys(query, key, value, key_mask)
    if backend == "rows" or not all(isinstance(n, int) for n in (*query.shape[:2], key.shape[1])):
        return attention_by_rows(query, key, value)
    if backend == "reference":
        return plain_attention(query, key, value)
    return attention(backend, query, key, value)
