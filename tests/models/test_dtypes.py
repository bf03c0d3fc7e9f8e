"""Dtypes of the computation and of parameters, precision and initialisers of networks and modules."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from danet_jax import (
    ChannelAttention,
    DANet,
    PositionAttention,
    create_state,
    make_train_step,
    poly_schedule,
    sgd,
)
from danet_jax.models.intermediates import apply_with_intermediates
from danet_jax.models.layers import Computation, Convolution
from danet_jax.training.mesh import make_mesh
from tests.reference.refusal import refused
from tests.reference.tiny_backbone import TinyBackbone, drawn_variables

pytestmark = pytest.mark.usefixtures("few_blocks")
IMAGES = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
OPTIMIZER = sgd(poly_schedule(0.1, 10))


def dtypes(tree):
    return {leaf.dtype.name for leaf in jax.tree.leaves(tree)}


def shapes(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


def small(**options):
    return DANet(3, backbone="resnet18", output_stride=32, **options)


def test_init_returns_only_parameters_and_batch_statistics():
    collections = set(jax.eval_shape(small(auxiliary=True).init, jax.random.key(0), IMAGES))
    assert collections == {"params", "batch_stats"}
    for module in (PositionAttention(), ChannelAttention()):
        assert set(jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 4, 4, 16)))) == {"params"}


def test_queries_and_keys_are_returned_only_on_request(rng):
    images = jnp.asarray(rng.standard_normal((2, 9, 16, 3)), jnp.float32)
    model = DANet(3, backbone=TinyBackbone())
    variables = drawn_variables(rng, model)
    assert isinstance(jax.eval_shape(model.apply, variables, images), tuple)

    @jax.jit
    def both(variables):
        _, kept = model.apply(variables, images, mutable=["intermediates"])
        return kept, apply_with_intermediates(model, variables, images, ["channel_attention", "nothing"])

    kept, intermediates = both(variables)
    assert {leaf.shape for leaf in jax.tree.leaves(kept)} == {(2, 3 * 4, 1)}
    sown = kept["intermediates"]["head"]["position_attention"]
    np.testing.assert_array_equal(intermediates.queries, sown["queries"][0])
    np.testing.assert_array_equal(intermediates.keys, sown["keys"][0])
    assert {name: x.shape for name, x in intermediates.modules.items()} == {"channel_attention": (2, 3, 4, 8)}


def state_and_batch(rng, model):
    batch = {
        "image": rng.integers(0, 256, (2, 32, 32, 3), np.uint8),
        "label": rng.integers(0, 3, (2, 32, 32)).astype(np.uint8),
    }
    mesh = make_mesh(devices=jax.devices()[:1])
    return create_state(model, OPTIMIZER, 0, mesh, average=True, variables=drawn_variables(rng, model)), batch


@pytest.mark.parametrize("param_dtype", ["float32", "bfloat16"])
def test_a_step_keeps_the_dtypes_of_its_state(rng, param_dtype):
    model = small(dtype=jnp.bfloat16, param_dtype=jnp.dtype(param_dtype))
    state, batch = state_and_batch(rng, model)
    assert dtypes(state.params) == {param_dtype}
    assert dtypes(state.batch_stats) == {"float32"}
    new, metrics = jax.eval_shape(make_train_step(model, OPTIMIZER, average_decay=0.9), state, batch)
    assert shapes(new) == shapes(state)
    assert dtypes(metrics) == {"float32"}


def test_a_training_step_with_16_bit_parameters(rng):
    model = DANet(3, backbone=TinyBackbone(), dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    state, batch = state_and_batch(rng, model)
    before = jax.device_get(state.params)
    assert dtypes(before["head"]) == {"bfloat16"}
    with jax.numpy_dtype_promotion("standard"):  # the parameters of the backbone are float32
        state, metrics = make_train_step(model, OPTIMIZER, average_decay=0.9)(state, batch)
    assert np.isfinite(metrics["loss"])
    changed = jax.tree.map(lambda a, b: bool(np.any(a != b)), before, jax.device_get(state.params))
    assert changed["head"]["fusion_classifier"]["kernel"]
    assert changed["backbone"]["Conv_0"]["kernel"]


def test_float16_approximates_float32_and_is_refused_in_training(rng):
    images = jnp.asarray(rng.standard_normal((2, 65, 64, 3)), jnp.float32)
    sizes = jnp.asarray([[65, 64], [40, 31]], jnp.int32)  # so that keys are excluded
    exact, half = small(), small(dtype=jnp.float16)
    variables = drawn_variables(rng, exact)
    logits = [jax.jit(model.apply)(variables, images, sizes=sizes).fusion for model in (exact, half)]
    assert logits[1].dtype == jnp.float32
    assert 0 < np.linalg.norm(logits[1] - logits[0]) < 0.01 * np.linalg.norm(logits[0])
    for model, what in ((half, "dtype"), (small(param_dtype=jnp.float16), "param_dtype")):
        with refused(what=what) as caught:
            make_train_step(model, OPTIMIZER)
        assert "bfloat16" in caught.value.allowed
        with refused(what=what):
            model.apply(
                variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)}
            )


def test_without_a_dtype_arrays_are_promoted(rng):
    x = jax.ShapeDtypeStruct((1, 5, 4, 16), jnp.bfloat16)
    for param_dtype, expected in ((jnp.float32, "float32"), (jnp.bfloat16, "bfloat16")):
        for module in (PositionAttention(param_dtype=param_dtype), ChannelAttention(param_dtype=param_dtype)):
            output, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), x)
            assert output.dtype.name == expected
            assert dtypes(variables) == {jnp.dtype(param_dtype).name}
    variables = drawn_variables(rng, small())
    programs = [jax.jit(small(**o).apply).lower(variables, IMAGES).as_text() for o in ({}, {"dtype": None})]
    assert programs[0] == programs[1]


def test_initialisers_can_be_replaced():
    given = {"kernel_init": nn.initializers.ones, "bias_init": nn.initializers.constant(0.5)}
    variables = jax.jit(small(auxiliary=True, **given).init)(jax.random.key(0), jnp.zeros(IMAGES.shape))
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
        module, name = path[-2].key, path[-1].key
        if name in ("kernel", "bias") and "bn" not in module:
            assert (leaf == (1 if name == "kernel" else 0.5)).all(), path


def test_precision_applies_to_every_product_except_on_a_cpu(rng):
    x = jnp.asarray(rng.standard_normal((1, 5, 4, 16)), jnp.float32)
    variables = Convolution(32, 3).init(jax.random.key(0), x)

    def gradients(precision):
        convolution = Convolution(32, 3, computation=Computation(precision=precision))
        return jax.jit(jax.value_and_grad(lambda v, x: jnp.sum(jnp.sin(convolution.apply(v, x))), (0, 1)))

    text = {
        p: gradients(p).trace(variables, x).lower(lowering_platforms=("tpu",)).as_text()
        for p in (None, "highest")
    }
    assert "HIGHEST" not in text[None]
    assert text["highest"].count("HIGHEST") >= 3  # the value and both gradients
    results = [gradients(precision)(variables, x) for precision in (None, "default", "highest")]
    for other in results[1:]:
        jax.tree.map(np.testing.assert_array_equal, results[0], other)
