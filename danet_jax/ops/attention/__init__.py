"""Position attention (section 3.2, equations 1 and 2) without parameters: exact, with linear memory, on any device."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax import lax
from jax.sharding import AbstractMesh, PartitionSpec

from danet_jax.errors import InputError
from danet_jax.ops.attention import blockwise, cudnn, splash
from danet_jax.ops.attention.common import exclude_keys
from danet_jax.ops.attention.map import attention_column as attention_column
from danet_jax.ops.attention.map import attention_row as attention_row
from danet_jax.ops.attention.map import row_logsumexp as row_logsumexp
from danet_jax.ops.attention.map import row_statistics as row_statistics
from danet_jax.ops.attention.rows import attention_by_rows, plain_attention
from danet_jax.ops.checks import check_arrays, check_choice
from danet_jax.ops.sharding import SPACE, mesh_of, platform_of

BACKENDS = ("auto", "blockwise", "cudnn", "splash", "rows", "reference")
"""The implementations of position attention; see `position_attention`."""

_ONLY_ON = {"cudnn": ("cuda", "NVIDIA GPUs"), "splash": ("tpu", "TPUs")}

Kernel = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def position_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    key_mask: jax.Array | None = None,
    backend: str = "auto",
) -> jax.Array:
    """Computes `out_j = sum_i softmax_i(query_j . key_i) value_i` (equations 1 and 2, before the scale alpha).

    The logits are not scaled by 1/sqrt(d). Every backend computes this exactly, with logits, softmax and sums in
    float32. All backends except `"reference"` need memory linear in N and M. This includes the gradient, which
    recomputes the attention map piece by piece. Batch and queries may be sharded; under `jit`, each device computes its
    part. NaN in the input results in NaN in the output.

    Args:
      query: float32, bfloat16 or float16 `[B, N, Ck]`.
      key: `[B, M, Ck]` of the same dtype.
      value: `[B, M, Cv]` of the same dtype.
      key_mask: bool `[B, M]`, False for keys to exclude; these may contain any values. The output of a query without
        any key is zero.
      backend: the implementation. `"auto"` selects the best one for the platform that the program is lowered for.
        `"blockwise"` computes tiles in plain XLA on any device. `"splash"` is JAX's TPU kernel. `"cudnn"` is cuDNN's
        flash attention, for bfloat16 or float16 on NVIDIA GPUs since Ampere. `"rows"` computes some queries at a time,
        with operations that every exporter supports; arrays of symbolic sizes (`jax.export`) always use it.
        `"reference"` computes the plain formula with N x M memory. It has derivatives of any order and mode (`jax.jvp`,
        `jax.linearize`, `jax.hessian`), whereas kernels have only first-order gradients (`jax.grad`, `jax.vjp`).

    Returns:
      `[B, N, Cv]` of the dtype of `value`.

    Raises:
      InputError: the backend does not exist, cannot run on the platform that the program is lowered for, or does not
        have second derivatives; or an array has the wrong dtype or shape.
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
    check_choice("backend", backend, BACKENDS)
    check_arrays(
        query=(query, "float B N Ck"),
        key=(key, "float B M Ck"),
        value=(value, "float B M Cv"),
        key_mask=(key_mask, "bool B M or None"),
    )
    if not query.dtype == key.dtype == value.dtype:
        raise TypeError(
            f"query, key and value must have one dtype, not {query.dtype}, {key.dtype}, {value.dtype}"
        )
    if key_mask is not None:
        query, key, value = exclude_keys(query, key, value, key_mask)
    if backend == "rows" or not all(isinstance(n, int) for n in (*query.shape[:2], key.shape[1])):
        return attention_by_rows(query, key, value)
    if backend == "reference":
        return plain_attention(query, key, value)
    refusal = cudnn.refusal(query, value)
    if backend == "cudnn" and refusal:
        raise InputError(f"backend='cudnn' cannot run: {refusal}; use 'auto'", what="backend", value=backend)
    check_backend_runs("backend", backend, platform_of(query))
    return _attention(backend, refusal is None, query, key, value)


def check_backend_runs(name: str, backend: str, platform: str, dtype: Any = None) -> None:
    """Raises InputError unless a backend runs on a platform. A program can call it before it loads any data.

    Args:
      name: the name of the option or argument that specified the backend.
      backend: one of `BACKENDS`.
      platform: "cpu", "cuda", "rocm" or "tpu"; JAX's "gpu" is treated as "cuda".
      dtype: dtype of the computation, if it is known.
    """
    if backend not in _ONLY_ON:
        return
    needed, devices = _ONLY_ON[backend]
    found = "cuda" if platform == "gpu" else platform
    reason = None if found == needed else f"is for {devices}, not for {found}"
    if reason is None and backend == "cudnn" and dtype is not None:
        reason = cudnn.dtype_refusal(dtype)
    if reason:
        raise InputError(f"{name}={backend!r} {reason}; use 'auto'", what=name, value=backend)


# The function is compiled even when it is called outside of `jit`, so that sharded arrays stay sharded.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _attention(
    backend: str, with_cudnn: bool, query: jax.Array, key: jax.Array, value: jax.Array
) -> jax.Array:
    kernels: dict[str, Kernel] = {
        "cpu": functools.partial(blockwise.attention, blockwise.CPU_TILE),
        "default": functools.partial(blockwise.attention, blockwise.ACCELERATOR_TILE),
    }
    if backend == "auto":
        kernels |= {"tpu": splash.attention} | ({"cuda": cudnn.attention} if with_cudnn else {})
    only: dict[str, Kernel] = {"cudnn": cudnn.attention, "splash": splash.attention}
    kernel = only.get(backend, functools.partial(lax.platform_dependent, **kernels))
    return _sharded(kernel, mesh_of(query))(query, key, value)


def _sharded(kernel: Kernel, mesh: AbstractMesh | None) -> Kernel:
    """Returns a version of `kernel` in which every device of `mesh` computes its own images and queries.

    The division is explicit, because XLA can neither partition a kernel nor infer that a loop over blocks needs no
    communication. Keys and values are gathered once, in memory linear in their number, and their gradients are summed
    over the devices that share an image.
    """
    if mesh is None:
        return kernel

    def on_mesh(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        axes = mesh_axes(mesh.shape, *query.shape[:2])
        by_image, by_query = PartitionSpec(axes["b"]), PartitionSpec(axes["b"], axes["n"])
        # With the check, every kernel would have to declare the axes over which its results vary.
        return jax.shard_map(
            kernel, mesh=mesh, in_specs=(by_query, by_image, by_image), out_specs=by_query, check_vma=False
        )(query, key, value)

    return on_mesh


def mesh_axes(mesh: Mapping[str, int], batch: int, queries: int) -> dict[str, tuple[str, ...]]:
    """Returns the axes of `mesh` that shard the batch (`"b"`) and the queries (`"n"`).

    The axis `space` shards the queries, as it shards rows in the rest of the network; any other axis shards the batch.
    If the size is not divisible, the axis shards the other dimension instead, if that is divisible. Otherwise, all
    devices along the axis compute the same.
    """
    axes: dict[str, tuple[str, ...]] = {"b": (), "n": ()}
    for name, size in mesh.items():
        choices = [("b", batch), ("n", queries)]
        for dimension, extent in reversed(choices) if name == SPACE else choices:
            if extent % (size * math.prod(mesh[other] for other in axes[dimension])) == 0:
                axes[dimension] += (name,)
                break
    return axes
