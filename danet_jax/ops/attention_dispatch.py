"""Which kernel computes position attention, chosen for each platform when a program is lowered for it."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
from jax._src import dispatch
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jax.sharding import AbstractMesh

from danet_jax.errors import InputError
from danet_jax.ops import attention_blockwise
from danet_jax.ops.attention_partition import BACKWARD_RULE, FORWARD_RULE, divided

KERNELS = ("auto", "blockwise", "cudnn", "splash")

RULES = {"forward": FORWARD_RULE, "backward": BACKWARD_RULE}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attention(backend: str, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """`softmax(query key^T) value` by one of `KERNELS`; what is kept for the gradient is linear in N."""
    return _forward(backend, query, key, value)[0].astype(value.dtype)


def _attention_forward(backend: str, *arrays: jax.Array) -> Any:
    # The gradient is given the output as float32: of one rounded to bfloat16 it would lose a digit where a row's
    # weights lie on few keys. (A kernel that rounds it itself leaves it so, and XLA drops the conversions.)
    output, logsumexp = _forward(backend, *arrays)
    return output.astype(arrays[2].dtype), (*arrays, output, logsumexp)


def _attention_backward(backend: str, residuals: Any, cotangent: jax.Array) -> Any:
    return _backward(backend, *residuals, cotangent)


attention.defvjp(_attention_forward, _attention_backward)


# A primitive for each direction, since a primitive is what JAX lowers by platform: a kernel is traced only for the
# platform that it is for, be the program compiled here or exported for elsewhere.
_forward_p = Primitive("position_attention")
_backward_p = Primitive("position_attention_backward")


# Compiled as a whole also when called by itself, so that arrays that are spread over devices stay so.
@functools.partial(jax.jit, static_argnums=0)
def _forward(backend: str, *arrays: jax.Array) -> list[jax.Array]:
    return _forward_p.bind(*arrays, backend=backend)


@functools.partial(jax.jit, static_argnums=0)
def _backward(backend: str, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    return tuple(_backward_p.bind(*arrays, backend=backend))


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


def _compute(
    direction: str, platform: str, mesh: AbstractMesh | None, *arrays: jax.Array, backend: str
) -> tuple[jax.Array, ...]:
    function = getattr(_kernel(platform, backend, arrays[0], arrays[2]), direction)
    return divided(function, RULES[direction], mesh)(*arrays)


def _lower(direction: str, platform: str, ctx: Any, *arrays: Any, backend: str) -> Any:
    mesh = getattr(ctx.module_context.axis_context, "abstract_mesh", None)
    compute = functools.partial(_compute, direction, platform, mesh, backend=backend)
    return mlir.lower_fun(compute, multiple_results=True)(ctx, *arrays)


def _batch(primitive: Primitive, arrays: Any, mapped: Any, *, backend: str) -> Any:
    """Under vmap: the mapped axis becomes part of the batch."""
    size = next(x.shape[axis] for x, axis in zip(arrays, mapped, strict=True) if axis is not None)

    def merged(x: jax.Array, axis: int | None) -> jax.Array:
        x = jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)
        return x.reshape(-1, *x.shape[2:])

    results = primitive.bind(*map(merged, arrays, mapped), backend=backend)
    return [x.reshape(size, -1, *x.shape[1:]) for x in results], [0] * len(results)


def _forward_shapes(query: Any, key: Any, value: Any, *, backend: str) -> tuple[ShapedArray, ...]:
    return (
        ShapedArray((*query.shape[:2], value.shape[2]), jnp.dtype("float32")),
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
        lambda *arrays, d=_direction, **kw: list(_compute(d, jax.default_backend(), None, *arrays, **kw))
    )
    for _platform in ("cpu", "cuda", "tpu", None):
        _rule = functools.partial(_lower, _direction, _platform or "this platform")
        mlir.register_lowering(_primitive, _rule, platform=_platform)
    batching.primitive_batchers[_primitive] = functools.partial(_batch, _primitive)
    # The lowering rules are told the mesh only of primitives that say they need it.
    dispatch.prim_requires_devices_during_lowering.add(_primitive)
