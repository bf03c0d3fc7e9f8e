"""What to do when a step needs more memory than a device has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from danet_jax.errors import InputError
from danet_jax.recipe import Recipe


def remedies(recipe: Recipe, mesh: Mesh, *, training: bool = True) -> list[str]:
    """Which options lower the memory of a step, the cheapest first; each with its flag."""
    options, space = recipe.training, mesh.shape["space"]
    found = []
    if recipe.model.dtype == "float32":
        found.append("--config.model.dtype=bfloat16 halves features")
    per_device = options.batch_size // options.accumulation // mesh.shape["data"]
    if training and per_device > 1:
        found.append(
            f"--config.training.accumulation={2 * options.accumulation} goes through the batch in smaller parts, "
            f"--config.training.batch_size={options.batch_size // 2} halves it"
        )
    if training and recipe.model.remat in ("auto", "none", "normalisation"):
        found.append("--config.model.remat=blocks computes features anew in the backward pass")
    if mesh.size > space:
        found.append(f"--config.mesh.space={2 * space} divides the rows of images over more devices")
    return found or ["take smaller images or more devices"]


@contextlib.contextmanager
def out_of_memory_in_a_line(
    recipe: Recipe, mesh: Mesh, step: Any, state: Any, batch: Mapping[str, jax.Array]
) -> Iterator[None]:
    """Turns what JAX raises when a device's memory is full into one line with the remedies.

    Args:
      recipe: of the run.
      mesh: its devices.
      step: the jit-compiled training step; the compiler is asked for its scratch.
      state: what it is called with; may be deleted by then.
      batch: likewise.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "out of memory" not in str(error).lower():
            raise
        inputs = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), (state, dict(batch))
        )
        raise InputError(
            f"out of memory in a step with config.training.batch_size={recipe.training.batch_size} on {mesh.size} "
            f"devices{_scratch(step, inputs)}; {'; '.join(remedies(recipe, mesh))}; --mode=compile tells it beforehand"
        ) from error


def _scratch(step: Any, inputs: tuple[Any, ...]) -> str:
    """What the compiler reports; nothing where it failed for the same reason."""
    try:
        memory = step.lower(*inputs).compile().memory_analysis()
    except jax.errors.JaxRuntimeError:
        return ""
    return f", of which each needs {memory.temp_size_in_bytes / 2**30:.1f} GiB of scratch" if memory else ""
