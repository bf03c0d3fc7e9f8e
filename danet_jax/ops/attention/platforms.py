"""Which kernel computes position attention, chosen for each platform when a program is lowered for it."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
from jax import lax

from danet_jax.errors import InputError
from danet_jax.ops.attention import blockwise, cudnn, splash
from danet_jax.ops.attention.partition import divided
from danet_jax.ops.sharding import mesh_of, platform_of

KERNELS = ("auto", "blockwise", "cudnn", "splash")

Kernel = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def attention(backend: str, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """`softmax(query key^T) value` by one of `KERNELS`; what is kept for the gradient is linear in N.

    Raises:
      InputError: the backend cannot run on the platform that the arrays are on.
    """
    refusal = cudnn.refusal(query, value)
    if backend == "cudnn" and refusal:
        raise InputError(f"attention backend 'cudnn' cannot run: {refusal}; use 'auto'")
    if backend in ("cudnn", "splash"):
        wanted, devices = {"cudnn": ("cuda", "NVIDIA GPUs"), "splash": ("tpu", "TPUs")}[backend]
        platform = platform_of(query)
        if platform != wanted:
            raise InputError(
                f"attention backend {backend!r} is for {devices}, not for {platform}; use 'auto'"
            )
    return _compiled(backend, refusal is None, query, key, value)


# Compiled as a whole also when called by itself, so that arrays that are spread over devices stay so.
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
