"""Sizes that are symbolic dimensions of `jax.export`; and attention by rows, which they are computed by."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from danet_jax.ops.attention import position_attention
from danet_jax.ops.attention import rows as attention_rows
from danet_jax.ops.convolution import convolution
from danet_jax.ops.resize import resize_bilinear


def plain(query, key, value):
    query, key, value = (x.astype(np.float64) for x in (query, key, value))
    logits = np.einsum("bnc,bmc->bnm", query, key)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return np.einsum("bnm,bmv->bnv", weights / weights.sum(-1, keepdims=True), value)


@pytest.fixture(autouse=True)
def _short_blocks(monkeypatch):
    monkeypatch.setattr(attention_rows, "ROWS", 16)


def arrays(rng, batch, queries, keys):
    shapes = (batch, queries, 4), (batch, keys, 4), (batch, keys, 6)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (16, 9), (17, 5), (50, 50)])
def test_it_equals_the_plain_form(rng, queries, keys):
    inputs = arrays(rng, 2, queries, keys)
    actual = jax.jit(lambda *x: position_attention(*x, backend="rows"))(*inputs)
    np.testing.assert_allclose(actual, plain(*inputs), rtol=1e-5, atol=1e-5)


def test_sizes_known_only_when_it_runs(rng):
    batch, queries, keys = export.symbolic_shape("b, n, m")
    shapes = (batch, queries, 4), (batch, keys, 4), (batch, keys, 6)
    specs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    exported = export.export(jax.jit(position_attention), platforms=("cpu", "cuda", "tpu"))(*specs)
    for sizes in ((1, 1, 1), (2, 16, 3), (1, 37, 40)):
        inputs = arrays(rng, *sizes)
        np.testing.assert_allclose(exported.call(*inputs), plain(*inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("align_corners", [True, False])
def test_resizing_to_sizes_known_only_when_it_runs(rng, align_corners):
    height, width = export.symbolic_shape("h, w")

    def enlarge(x):
        return resize_bilinear(x, (8 * x.shape[1] - 3, 3 * x.shape[2]), align_corners=align_corners)

    spec = jax.ShapeDtypeStruct((2, height, width, 3), jnp.float32)
    exported = export.export(jax.jit(enlarge))(spec)
    for size in ((1, 1), (5, 7), (9, 2)):
        x = rng.normal(size=(2, *size, 3)).astype(np.float32)
        np.testing.assert_allclose(exported.call(x), enlarge(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("geometry", [(1, 1, 1), (2, 1, 1), (1, 4, 4)])
def test_convolution_of_sizes_known_only_when_it_runs(rng, geometry):
    stride, padding, dilation = geometry
    kernel = rng.normal(size=(3, 3, 2, 4)).astype(np.float32)

    def convolve(x):
        return convolution(x, jnp.asarray(kernel), stride=stride, padding=padding, dilation=dilation)

    spec = jax.ShapeDtypeStruct((*export.symbolic_shape("b, h, w"), 2), jnp.float32)
    exported = export.export(jax.jit(convolve), platforms=("cpu", "cuda", "tpu"))(spec)
    for size in ((1, 1, 1), (2, 9, 6)):
        x = rng.normal(size=(*size, 2)).astype(np.float32)
        np.testing.assert_allclose(exported.call(x), convolve(x), rtol=1e-5, atol=1e-5)
