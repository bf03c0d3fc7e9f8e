"""Symbolic dimensions of `jax.export`, and attention by rows, which they use."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from danet_jax.ops.attention import position_attention
from danet_jax.ops.attention import rows as attention_rows
from danet_jax.ops.convolution import convolution
from danet_jax.ops.resize import resize_bilinear
from tests.reference.float64_attention import random_inputs, softmax


def reference(query, key, value):
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    return softmax(query @ key.swapaxes(1, 2)) @ value


@pytest.fixture(autouse=True)
def _short_blocks(monkeypatch):
    monkeypatch.setattr(attention_rows, "ROWS", 16)


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (16, 9), (17, 5), (50, 50)])
def test_attention_by_rows(rng, queries, keys):
    inputs = random_inputs(rng, 2, queries, keys, 4, 6)[:3]
    actual = jax.jit(lambda *x: position_attention(*x, backend="rows"))(*inputs)
    np.testing.assert_allclose(actual, reference(*inputs), rtol=1e-5, atol=1e-5)


def test_attention_with_symbolic_sizes(rng):
    batch, queries, keys = export.symbolic_shape("b, n, m")
    shapes = (batch, queries, 4), (batch, keys, 4), (batch, keys, 6)
    specs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    exported = export.export(jax.jit(position_attention), platforms=("cpu", "cuda", "tpu"))(*specs)
    for sizes in ((1, 1, 1), (2, 16, 3), (1, 37, 40)):
        inputs = random_inputs(rng, *sizes, 4, 6)[:3]
        np.testing.assert_allclose(exported.call(*inputs), reference(*inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("align_corners", [True, False])
def test_resizing_with_symbolic_sizes(rng, align_corners):
    height, width = export.symbolic_shape("h, w")

    def enlarge(x):
        return resize_bilinear(x, (8 * x.shape[1] - 3, 3 * x.shape[2]), align_corners=align_corners)

    spec = jax.ShapeDtypeStruct((2, height, width, 3), jnp.float32)
    exported = export.export(jax.jit(enlarge))(spec)
    for size in ((1, 1), (5, 7), (9, 2)):
        x = rng.normal(size=(2, *size, 3)).astype(np.float32)
        np.testing.assert_allclose(exported.call(x), enlarge(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("geometry", [(1, 1, 1), (2, 1, 1), (1, 4, 4)])
def test_convolution_with_symbolic_sizes(rng, geometry):
    stride, padding, dilation = geometry
    kernel = rng.normal(size=(3, 3, 2, 4)).astype(np.float32)

    def convolve(x):
        return convolution(x, jnp.asarray(kernel), stride=stride, padding=padding, dilation=dilation)

    spec = jax.ShapeDtypeStruct((*export.symbolic_shape("b, h, w"), 2), jnp.float32)
    exported = export.export(jax.jit(convolve), platforms=("cpu", "cuda", "tpu"))(spec)
    for size in ((1, 1, 1), (2, 9, 6)):
        x = rng.normal(size=(*size, 2)).astype(np.float32)
        np.testing.assert_allclose(exported.call(x), convolve(x), rtol=1e-5, atol=1e-5)
