import jax
import jax.numpy as jnp
import pytest

from danet_jax.errors import InputError
from danet_jax.modes.memory import out_of_memory_in_a_line, remedies
from danet_jax.recipe import defaults, read_recipe
from danet_jax.training.mesh import make_mesh


def recipe(**options):
    config = defaults()
    config.training.update(options)
    return read_recipe(config.to_dict())


def test_a_full_device_is_one_line_with_batch_scratch_and_remedies():
    step = jax.jit(lambda state, batch: (state + batch["image"].sum(), {"loss": state}), donate_argnums=0)
    state, batch = jnp.zeros(3), {"image": jnp.ones((2, 2))}
    mesh = make_mesh(2, 1)
    step(state, batch)  # the state is donated and gone, as in training
    with pytest.raises(InputError) as caught, out_of_memory_in_a_line(recipe(), mesh, step, state, batch):
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.\n" * 9
        )
    line = str(caught.value)
    assert "\n" not in line
    assert "config.training.batch_size=8 on 2 devices" in line
    assert "GiB of scratch" in line
    assert "--config.training.accumulation=2" in line
    assert "--config.mesh.space=2" in line


def test_other_errors_pass_as_they_are():
    with (
        pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"),
        out_of_memory_in_a_line(recipe(), make_mesh(1, 1), None, None, {}),
    ):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")


def test_only_what_would_help_is_advised():
    config = defaults()
    config.model.dtype = "bfloat16"
    config.training.batch_size = 1
    config.model.remat = "full"
    [only] = remedies(read_recipe(config.to_dict()), make_mesh(1, 1))
    assert only == "take smaller images or more devices"
