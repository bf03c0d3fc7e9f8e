"""Which kernel computes position attention on each platform, and how its work is divided over devices."""

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
from danet_jax.ops.sharding import SPACE, mesh_of, platform_of

KERNELS = ("auto", "blockwise", "cudnn", "splash")

_ONLY_ON = {"cudnn": ("cuda", "NVIDIA GPUs"), "splash": ("tpu", "TPUs")}

Kernel = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def check_backend_runs(name: str, backend: str, platform: str, dtype: Any = None) -> None:
    """Raises InputError unless a kernel runs on a platform, so that a program can refuse it before it loads data.

    Args:
      name: the option or argument that chose it.
      backend: one of `danet_jax.ops.attention.BACKENDS`.
      platform: "cpu", "cuda", "rocm" or "tpu" (JAX's "gpu" stands for "cuda").
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


def attention(backend: str, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Computes `softmax(query key^T) value` by one of `KERNELS`; what is kept for the gradient is linear in N.

    Raises:
      InputError: the backend cannot run on the platform that the arrays are on.
    """
    refusal = cudnn.refusal(query, value)
    if backend == "cudnn" and refusal:
        raise InputError(f"backend='cudnn' cannot run: {refusal}; use 'auto'", what="backend", value=backend)
    check_backend_runs("backend", backend, platform_of(query))
    return _compiled(backend, refusal is None, query, key, value)


# Compiled as a whole even when it is called outside of `jit`, so that arrays that are spread over devices stay so.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _compiled(
    backend: str, with_cudnn: bool, query: jax.Array, key: jax.Array, value: jax.Array
) -> jax.Array:
    on_cpu = functools.partial(blockwise.attention, blockwise.CPU_TILE)
    elsewhere = functools.partial(blockwise.attention, blockwise.ACCELERATOR_TILE)
    kernels: dict[str, Kernel] = {
        "auto": functools.partial(
            lax.platform_dependent,
            cpu=on_cpu,
            cuda=cudnn.attention if with_cudnn else elsewhere,
            tpu=splash.attention,
            default=elsewhere,
        ),
        "blockwise": functools.partial(lax.platform_dependent, cpu=on_cpu, default=elsewhere),
        "cudnn": cudnn.attention,
        "splash": splash.attention,
    }
    return divided(kernels[backend], mesh_of(query))(query, key, value)


def divided(kernel: Kernel, mesh: AbstractMesh | None) -> Kernel:
    """Returns `kernel` as a function in which every device of `mesh` computes its own images and queries.

    XLA can neither look into a kernel nor infer that a loop over blocks needs no communication, so the
    division is explicit: keys and values are gathered once, in memory linear in their number, and the
    gradients of keys and values are summed over the devices that share an image.
    """
    if mesh is None:
        return kernel

    def on_mesh(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        axes = division(mesh.shape, *query.shape[:2])
        by_image, by_query = PartitionSpec(axes["b"]), PartitionSpec(axes["b"], axes["n"])
        # The check would need every kernel to declare over which axes its results vary.
        return jax.shard_map(
            kernel, mesh=mesh, in_specs=(by_query, by_image, by_image), out_specs=by_query, check_vma=False
        )(query, key, value)

    return on_mesh


def division(mesh: Mapping[str, int], batch: int, queries: int) -> dict[str, tuple[str, ...]]:
    """Returns over which axes of `mesh` to divide the batch, `"b"`, and the queries, `"n"`.

    The axis `space` divides the queries (it divides the rows in all of the network) if it divides them evenly, and any
    other axis the batch. Where that does not fit, the axis divides the other of the two if that fits; otherwise every
    device along it computes the same.
    """
    axes: dict[str, tuple[str, ...]] = {"b": (), "n": ()}
    for name, size in mesh.items():
        choices = [("b", batch), ("n", queries)]
        for dimension, extent in reversed(choices) if name == SPACE else choices:
            if extent % (size * math.prod(mesh[other] for other in axes[dimension])) == 0:
                axes[dimension] += (name,)
                break
    return axes
