"""What networks and their modules compute in: dtypes of the computation and of parameters, precision, initialisers."""

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
from danet_jax.models.insight import look_inside
from danet_jax.models.layers import Computation, Convolution
from danet_jax.training.mesh import make_mesh
from tests.reference.refusal import refused


def dtypes(tree):
    return {leaf.dtype.name for leaf in jax.tree.leaves(tree)}


def small(**options):
    return DANet(3, backbone="resnet18", output_stride=32, **options)


def test_init_makes_parameters_and_batch_statistics_only(rng):
    images = jnp.asarray(rng.standard_normal((1, 32, 32, 3)), jnp.float32)
    shapes = jax.eval_shape(small(auxiliary=True).init, jax.random.key(0), images)
    assert set(shapes) == {"params", "batch_stats"}
    x = jnp.zeros((1, 4, 4, 16))
    for module in (PositionAttention(), ChannelAttention()):
        assert set(jax.eval_shape(module.init, jax.random.key(0), x)) == {"params"}


def test_queries_and_keys_are_kept_only_when_asked_for(rng):
    images = jnp.asarray(rng.standard_normal((2, 33, 64, 3)), jnp.float32)
    model = small()
    variables = jax.jit(model.init)(jax.random.key(0), images)
    assert isinstance(model.apply(variables, images), tuple)
    _, kept = model.apply(variables, images, mutable=["intermediates"])
    assert {leaf.shape for leaf in jax.tree.leaves(kept)} == {(2, 4, 16)}
    inside = look_inside(model, variables, images, ["channel_attention", "nothing"])
    sown = kept["intermediates"]["head"]["position_attention"]
    np.testing.assert_array_equal(inside.queries, sown["queries"][0])
    np.testing.assert_array_equal(inside.keys, sown["keys"][0])
    assert inside.modules["channel_attention"].shape == (2, 2, 2, 128)


@pytest.mark.parametrize("param_dtype", [jnp.float32, jnp.bfloat16])
def test_a_step_with_parameters_of_16_bits(rng, param_dtype):
    model = small(dtype=jnp.bfloat16, param_dtype=param_dtype)
    optimizer = sgd(poly_schedule(0.1, 10))
    state = create_state(model, optimizer, 0, make_mesh(devices=jax.devices()[:1]), average=True)
    assert dtypes(state.params) == {jnp.dtype(param_dtype).name}
    assert dtypes(state.batch_stats) == {"float32"}
    batch = {
        "image": rng.integers(0, 256, (2, 32, 32, 3), np.uint8),
        "label": rng.integers(0, 3, (2, 32, 32)).astype(np.uint8),
    }
    before = jax.device_get(state.params)
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    state, metrics = make_train_step(model, optimizer, average_decay=0.9)(state, batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == shapes
    assert dtypes(metrics) == {"float32"}
    assert np.isfinite(metrics["loss"])
    kernel = ("head", "fusion_classifier", "kernel")
    old, new = before, state.params
    for name in kernel:
        old, new = old[name], new[name]
    assert np.any(np.asarray(new) != old)


def test_float16_computes_what_float32_does_and_is_not_trained(rng):
    images = jnp.asarray(rng.standard_normal((2, 65, 64, 3)), jnp.float32)
    sizes = jnp.asarray([[65, 64], [40, 33]], jnp.int32)  # so that keys are excluded
    exact = small()
    variables = jax.jit(exact.init)(jax.random.key(int(rng.integers(2**31))), images)
    variables = jax.tree.map(lambda x: x + jnp.float32(0.5) if x.ndim == 0 else x, variables)
    expected = exact.apply(variables, images, sizes=sizes).fusion
    half = small(dtype=jnp.float16)
    logits = half.apply(variables, images, sizes=sizes).fusion
    assert logits.dtype == jnp.float32
    assert np.abs(logits - expected).max() < 0.02 * np.abs(expected).max()
    for model, what in ((half, "dtype"), (small(param_dtype=jnp.float16), "param_dtype")):
        with refused(what=what) as caught:
            make_train_step(model, sgd(poly_schedule(0.1, 10)))
        assert "bfloat16" in str(caught.value)
        with refused(what=what):
            model.apply(
                variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)}
            )


def test_without_a_dtype_arrays_are_promoted_as_in_flax(rng):
    x = jnp.asarray(rng.standard_normal((1, 5, 4, 16)), jnp.bfloat16)
    for param_dtype, expected in ((jnp.float32, "float32"), (jnp.bfloat16, "bfloat16")):
        for module in (PositionAttention(param_dtype=param_dtype), ChannelAttention(param_dtype=param_dtype)):
            output, variables = module.init_with_output(jax.random.key(0), x)
            assert output.dtype.name == expected
            assert dtypes(variables) == {jnp.dtype(param_dtype).name}
    images = jnp.asarray(rng.standard_normal((1, 32, 32, 3)), jnp.float32)
    default, free = small(), small(dtype=None)
    variables = jax.jit(default.init)(jax.random.key(0), images)
    jax.tree.map(
        np.testing.assert_array_equal, default.apply(variables, images), free.apply(variables, images)
    )


def test_initialisers_and_precision_are_those_given(rng):
    x = jnp.asarray(rng.standard_normal((1, 5, 4, 16)), jnp.float32)
    module = PositionAttention(kernel_init=nn.initializers.ones, bias_init=nn.initializers.constant(0.5))
    params = module.init(jax.random.key(0), x)["params"]
    for name in ("query", "key", "value"):
        assert (params[name]["kernel"] == 1).all()
        assert (params[name]["bias"] == 0.5).all()
    images = jnp.zeros((1, 32, 32, 3))
    params = jax.jit(small(kernel_init=nn.initializers.ones, bias_init=nn.initializers.ones).init)(
        jax.random.key(0), images
    )["params"]
    assert (params["backbone"]["stem"]["conv1"]["kernel"] == 1).all()
    assert (params["head"]["position_attention"]["query"]["bias"] == 1).all()
    assert (params["head"]["position_classifier"]["kernel"] == 1).all()

    def lowered(precision):
        convolution = Convolution(32, 3, computation=Computation(precision=precision))
        loss = lambda v, x: jnp.sum(jnp.sin(convolution.apply(v, x)))  # noqa: E731
        variables = convolution.init(jax.random.key(0), x)
        trace = jax.jit(jax.grad(loss, (0, 1))).trace(variables, x)
        return trace.lower(lowering_platforms=("tpu",)).as_text().count("HIGHEST")

    assert lowered(None) == 0
    assert lowered("highest") >= 3  # the value and both gradients
    for given in (None, "default", "highest"):
        convolution = Convolution(32, 3, computation=Computation(precision=given))
        variables = Convolution(32, 3).init(jax.random.key(0), x)
        np.testing.assert_array_equal(convolution.apply(variables, x), Convolution(32, 3).apply(variables, x))
