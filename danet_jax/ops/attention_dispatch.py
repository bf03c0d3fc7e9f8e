"""Which kernel computes position attention, chosen for each platform when a program is lowered for it."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import mlir

from danet_jax.errors import InputError
from danet_jax.ops import attention_blockwise
from danet_jax.ops.attention_partition import BACKWARD_RULE, FORWARD_RULE, partitioned

KERNELS = ("auto", "blockwise", "cudnn", "splash")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attention(backend: str, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """`softmax(query key^T) value` by one of `KERNELS`; what is kept for the gradient is linear in N."""
    return _forward(backend, query, key, value)[0]


def _attention_forward(backend: str, *arrays: jax.Array) -> Any:
    output, logsumexp = _forward(backend, *arrays)
    return output, (*arrays, output, logsumexp)


def _attention_backward(backend: str, residuals: Any, cotangent: jax.Array) -> Any:
    return _backward(backend, *residuals, cotangent)


attention.defvjp(_attention_forward, _attention_backward)


# A primitive for each direction, since a primitive is what JAX lowers by platform: a kernel is traced only for the
# platform that it is for, be the program compiled here or exported for elsewhere.
_forward_p = Primitive("position_attention")
_backward_p = Primitive("position_attention_backward")


@functools.cache
def _operation(primitive: Primitive, rule: str, backend: str) -> Any:
    return partitioned(functools.partial(_bind, primitive, backend), rule)


def _bind(primitive: Primitive, backend: str, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    return tuple(primitive.bind(*arrays, backend=backend))


# Compiled as a whole also when called by itself, so that arrays that are spread over devices stay so.
@functools.partial(jax.jit, static_argnums=0)
def _forward(backend: str, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    return _operation(_forward_p, FORWARD_RULE, backend)(*arrays)


@functools.partial(jax.jit, static_argnums=0)
def _backward(backend: str, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    return _operation(_backward_p, BACKWARD_RULE, backend)(*arrays)


def _kernel(platform: str, backend: str, query: jax.Array, value: jax.Array) -> Any:
    """The forward and backward functions of `backend` on `platform`, or InputError with the reason."""
    if platform == "cuda" and backend in ("auto", "cudnn"):
        from danet_jax.ops import attention_cudnn

        refusal = attention_cudnn.refusal(query, value)
        if refusal is None:
            return attention_cudnn
        if backend == "cudnn":
            raise InputError(f"attention backend 'cudnn' cannot run: {refusal}; use 'auto'")
    if platform == "tpu" and backend in ("auto", "splash"):
        from danet_jax.ops import attention_splash

        return attention_splash
    if backend in ("cudnn", "splash"):
        wanted = {"cudnn": "NVIDIA GPUs", "splash": "TPUs"}[backend]
        raise InputError(f"attention backend {backend!r} is for {wanted}, not for {platform}; use 'auto'")
    tile = attention_blockwise.CPU_TILE if platform == "cpu" else attention_blockwise.ACCELERATOR_TILE
    return SimpleNamespace(
        forward=functools.partial(attention_blockwise.forward, tile=tile),
        backward=functools.partial(attention_blockwise.backward, tile=tile),
    )


def _compute(direction: str, platform: str, *arrays: jax.Array, backend: str) -> tuple[jax.Array, ...]:
    return getattr(_kernel(platform, backend, arrays[0], arrays[2]), direction)(*arrays)


def _forward_shapes(query: Any, key: Any, value: Any, *, backend: str) -> tuple[ShapedArray, ...]:
    return (
        ShapedArray((*query.shape[:2], value.shape[2]), value.dtype),
        ShapedArray(query.shape[:2], jnp.dtype("float32")),
    )


def _backward_shapes(query: Any, key: Any, value: Any, *_: Any, backend: str) -> tuple[ShapedArray, ...]:
    return tuple(ShapedArray(x.shape, x.dtype) for x in (query, key, value))


for _primitive, _direction, _shapes in (
    (_forward_p, "forward", _forward_shapes),
    (_backward_p, "backward", _backward_shapes),
):
    _primitive.multiple_results = True
    _primitive.def_abstract_eval(_shapes)
    # Reached under jax.disable_jit only.
    _primitive.def_impl(
        lambda *arrays, d=_direction, **p: list(_compute(d, jax.default_backend(), *arrays, **p))
    )
    for _platform in ("cpu", "cuda", "tpu", None):
        mlir.register_lowering(
            _primitive,
            mlir.lower_fun(
                functools.partial(_compute, _direction, _platform or "this platform"), multiple_results=True
            ),
            platform=_platform,
        )
