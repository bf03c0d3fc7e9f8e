"""The names and shapes of a network's variables, and the refusal of others."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from danet_jax.models.danet import DANet
from danet_jax.models.resnet import ResNet
from danet_jax.models.variables import check_fits, refuse_not_finite, variable_shapes
from tests.reference.refusal import refused


@pytest.mark.parametrize(
    "model",
    [
        DANet(5, "resnet18", "v1s", channel_attention=False, auxiliary=True, multi_grid=[4, 8]),
        DANet(5, "resnet34", "v1c", position_attention=False, channel_attention=False, remat="full"),
        DANet(19, "resnet50", dtype=jnp.bfloat16, phases=True, output_stride=16),
        ResNet("resnet101", output_stride=32),
        nn.Sequential([nn.Conv(4, (3, 3)), nn.BatchNorm(True)]),
    ],
)
def test_variables_are_those_that_init_returns(model):
    found = variable_shapes(model)
    assert found == jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    found["params"].clear()
    assert variable_shapes(model)["params"]


@pytest.mark.parametrize(("backbone", "parameters"), [("resnet50", 47_462_651), ("resnet101", 66_454_779)])
def test_parameter_counts(backbone, parameters):
    params = variable_shapes(DANet(num_classes=19, backbone=backbone, multi_grid=(4, 8, 16)))["params"]

    def count(tree):
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    assert count(params["head"]) == 23_954_619
    assert count(params) == parameters


def test_variables_that_do_not_fit_are_refused():
    model = nn.Dense(4)
    params = {"kernel": np.zeros((3, 4)), "bias": np.zeros(4)}
    check_fits(model, {"params": params, "other": {"kept": np.zeros(7)}})
    for invalid, path in (
        ({**params, "kernel": np.zeros((4, 3))}, "params/kernel"),
        ({"kernel": params["kernel"]}, "params/bias"),
        ({**params, "more": {"of": np.zeros(1)}}, "params/more/of"),
    ):
        with refused("variables") as caught:
            check_fits(model, {"params": invalid})
        assert path in str(caught.value)
    for nothing in (None, params, {"params": 3}):
        with refused("variables"):
            check_fits(model, nothing)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value):
    good = {"params": {"a": {"kernel": np.ones(3), "bias": jnp.ones(2, jnp.bfloat16)}}}
    refuse_not_finite(good)
    good["params"]["a"]["kernel"][1] = value
    with refused("params/a/kernel"):
        refuse_not_finite(good)
