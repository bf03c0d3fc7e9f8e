"""The memory that a compiled step needs, and what to do if it is more than a device has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from danet_jax.errors import InputError
from danet_jax.recipe import Recipe

GIB = 2**30


class Memory(NamedTuple):
    """The memory of a compiled program on each device, in bytes.

    Attributes:
      arguments: the memory of its inputs.
      output: the memory of the results that do not overwrite an input.
      scratch: the additional memory that it needs while it runs.
    """

    arguments: int
    output: int
    scratch: int

    @property
    def total(self) -> int:
        """The total memory in bytes."""
        return self.arguments + self.output + self.scratch


def memory_of(compiled: jax.stages.Compiled) -> Memory | None:
    """Returns the memory that a program needs, or None if its compiler does not report it."""
    analysis: Any = compiled.memory_analysis()
    if analysis is None:
        return None
    return Memory(
        arguments=analysis.argument_size_in_bytes,
        output=analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
        scratch=analysis.temp_size_in_bytes,
    )


def remedies(recipe: Recipe, mesh: Mesh, *, training: bool = True) -> list[str]:
    """Returns the options that lower the memory of a step, the cheapest first, each with its flag and effect."""
    options, space = recipe.training, mesh.shape["space"]
    found = []
    if recipe.model.dtype == "float32":
        found.append("--config.model.dtype=bfloat16 halves features")
    per_device = options.batch_size // options.accumulation // mesh.shape["data"]
    if training and per_device > 1:
        found.append(
            f"--config.training.accumulation={2 * options.accumulation} divides the batch into smaller parts, "
            f"--config.training.batch_size={options.batch_size // 2} halves it"
        )
    if training and recipe.model.remat in ("auto", "none", "normalisation"):
        found.append("--config.model.remat=blocks recomputes features in the backward pass")
    if mesh.size > space:
        found.append(f"--config.mesh.space={2 * space} divides the rows of images over more devices")
    return found or ["use smaller images or more devices"]


@contextlib.contextmanager
def explaining_out_of_memory(
    recipe: Recipe, mesh: Mesh, step: Any, state: Any, batch: Mapping[str, jax.Array]
) -> Iterator[None]:
    """Replaces JAX's error when a device runs out of memory in this context by an InputError that names remedies.

    In this context, the jit-compiled train step is called with `state`, which may be donated, and `batch`.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "out of memory" not in str(error).lower():
            raise
        inputs = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), (state, dict(batch))
        )
        try:
            memory = memory_of(step.lower(*inputs).compile())
        except jax.errors.JaxRuntimeError:  # the compiler fails for the same reason
            memory = None
        scratch = f", each of which needs {memory.scratch / GIB:.1f} GiB of scratch" if memory else ""
        raise InputError(
            f"out of memory in a step with config.training.batch_size={recipe.training.batch_size} on {mesh.size} "
            f"devices{scratch}; {'; '.join(remedies(recipe, mesh))}; --mode=compile reports it in advance",
            what="config.training.batch_size",
            value=recipe.training.batch_size,
        ) from error
