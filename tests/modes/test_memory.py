"""What a program needs is read from its compiler; a step that needs too much is one line with what helps."""

import jax
import jax.numpy as jnp
import pytest

from danet_jax.modes.memory import explaining_out_of_memory, memory_of, remedies
from danet_jax.recipe import defaults, read_recipe
from danet_jax.training.mesh import make_mesh
from tests.reference.refusal import refused


def recipe(**options):
    config = defaults()
    config.training.update(options)
    return read_recipe(config.to_dict())


def test_out_of_memory_is_explained_with_remedies():
    step = jax.jit(lambda state, batch: (state + batch["image"].sum(), {"loss": state}), donate_argnums=0)
    state, batch = jnp.zeros(3), {"image": jnp.ones((2, 2))}
    mesh = make_mesh(2, 1)
    step(state, batch)  # the state is donated and gone, as in training
    message = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.\n" * 9
    full = explaining_out_of_memory(recipe(), mesh, step, state, batch)
    with refused("config.training.batch_size", 8) as caught, full:
        raise jax.errors.JaxRuntimeError(message)
    for part in ("2 devices", "GiB", "--config.training.accumulation=2", "--config.mesh.space=2"):
        assert part in str(caught.value)


def test_other_errors_are_unchanged():
    with (
        pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"),
        explaining_out_of_memory(recipe(), make_mesh(1, 1), None, None, {}),
    ):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")


def test_only_applicable_remedies_are_given():
    config = defaults()
    config.model.dtype = "bfloat16"
    config.training.batch_size = 1
    config.model.remat = "full"
    [only] = remedies(read_recipe(config.to_dict()), make_mesh(1, 1))
    assert "--config" not in only


def test_donated_memory_is_counted_once(rng):
    rows, columns = (int(n) for n in rng.integers(3, 50, 2))
    x = jax.ShapeDtypeStruct((rows, columns), jnp.float32)
    kept = memory_of(jax.jit(lambda x: x + 1).lower(x).compile())
    donated = memory_of(jax.jit(lambda x: x + 1, donate_argnums=0).lower(x).compile())
    size = 4 * rows * columns
    assert (kept.arguments, kept.output, kept.total) == (size, size, 2 * size + kept.scratch)
    assert (donated.arguments, donated.output, donated.total) == (size, 0, size + donated.scratch)
