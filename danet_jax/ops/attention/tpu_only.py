"""Allows TPU-only kernels in programs that are lowered for several platforms at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun

# This is the only use of a JAX interface that is not public. When a program is lowered for TPU and CPU together
# (jax.export), its TPU branch is also lowered for CPU, although it never runs there, and a Pallas kernel refuses that.
from jax.interpreters import mlir

Arrays = Sequence[jax.Array]


def tpu_only(function: Callable[..., Arrays]) -> Callable[..., Arrays]:
    """Returns a version of `function`, which returns a list of arrays, that returns zeros unless lowered for TPU.

    It is meant for a branch of `lax.platform_dependent` that only TPUs execute.
    """

    @custom_vmap
    def call(*arrays: Any) -> Arrays:
        return _tpu_only_p.bind(*jax.tree.leaves(arrays), jaxpr=jax.make_jaxpr(function)(*arrays))

    @call.def_vmap
    def _mapped(size: int, mapped: Any, *arrays: Any) -> Any:
        axes = jax.tree.map(lambda is_mapped: 0 if is_mapped else None, tuple(mapped))
        results = tpu_only(jax.vmap(function, in_axes=axes, axis_size=size))(*arrays)
        return results, [True] * len(results)

    return call


_tpu_only_p = Primitive("tpu_only")
_tpu_only_p.multiple_results = True
_tpu_only_p.def_abstract_eval(lambda *_, jaxpr: jaxpr.out_avals)


def _run(*arrays: jax.Array, jaxpr: ClosedJaxpr) -> Arrays:
    return jaxpr_as_fun(jaxpr)(*arrays)


def _zeros(*_: jax.Array, jaxpr: ClosedJaxpr) -> Arrays:
    return [jnp.zeros(aval.shape, aval.dtype) for aval in jaxpr.out_avals]


mlir.register_lowering(_tpu_only_p, mlir.lower_fun(_run, multiple_results=True), platform="tpu")
mlir.register_lowering(_tpu_only_p, mlir.lower_fun(_zeros, multiple_results=True))
