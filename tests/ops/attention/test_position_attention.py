"""Position attention: values, gradients, masks, memory and sharding, against float64 formulas."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from danet_jax.ops.attention import (
    attention_column,
    attention_row,
    blockwise,
    mesh_axes,
    position_attention,
    row_logsumexp,
    row_statistics,
)
from danet_jax.ops.attention.blockwise import Tile
from tests.reference.float64_attention import (
    attention_and_gradients,
    random_inputs,
    relative_error,
    softmax,
)
from tests.reference.refusal import refused

BOUNDS = {jnp.float32: 1e-5, jnp.bfloat16: 1e-2, jnp.float16: 2e-3}


def value_and_gradients(function):
    def compute(query, key, value, cotangent):
        output, vjp = jax.vjp(function, query, key, value)
        return output, *vjp(cotangent)

    return compute


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 8, 16), (2, 7, 3, 8, 16), (3, 289, 289, 16, 24), (1, 1100, 700, 64, 80)], ids=str
)
def test_values_and_gradients(rng, shape, dtype):
    arrays = random_inputs(rng, *shape, dtype)
    actual = jax.jit(value_and_gradients(position_attention))(*arrays)
    for result, expected, array in zip(
        actual, attention_and_gradients(*arrays), (arrays[3], *arrays[:3]), strict=True
    ):
        assert result.dtype == dtype
        assert result.shape == array.shape
        if shape[2] > 1:  # The softmax over a single key has no gradient to be relative to.
            assert relative_error(result, expected) < BOUNDS[dtype]


@pytest.mark.parametrize("tile", [Tile(16, 16, jnp.float32), Tile(16, 48, None), Tile(64, 32, None)], ids=str)
@pytest.mark.parametrize("shape", [(2, 53, 101, 8, 12), (1, 64, 97, 8, 4)], ids=str)
def test_tiles_of_any_size(rng, tile, shape):
    arrays = random_inputs(rng, *shape)
    actual = value_and_gradients(functools.partial(blockwise.attention, tile))(*arrays)
    for result, expected in zip(actual, attention_and_gradients(*arrays), strict=True):
        assert relative_error(result, expected) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("positions", [65 * 129, 97 * 97])
def test_real_feature_maps(rng, positions):
    """Compares some rows and columns for the 65x129 and 97x97 positions of 513x1025 and 769x769 images."""
    arrays = random_inputs(rng, 1, positions, positions, 64, 64)
    output, dquery, dkey, dvalue = jax.jit(value_and_gradients(position_attention))(*arrays)
    rows = rng.integers(0, positions, 16)
    q, k, v, d = (np.asarray(x[0], np.float64) for x in arrays)
    expected = attention_and_gradients(q[None, rows], k[None], v[None], d[None, rows])
    assert relative_error(output[0, rows], expected[0][0]) < 1e-5
    assert relative_error(dquery[0, rows], expected[1][0]) < 1e-5
    weights = softmax(q @ k.T)
    assert relative_error(dvalue[0], weights.T @ d) < 1e-5
    projection = (np.asarray(output[0], np.float64) * d).sum(1)
    dlogits = weights[:, rows] * (d @ v[rows].T - projection[:, None])
    assert relative_error(dkey[0, rows], dlogits.T @ q) < 2e-5


def test_sharp_softmaxes(rng):
    """With logits of +-60, one key has nearly all weight, and exp(60) squared would overflow."""
    query, key, value, cotangent = random_inputs(rng, 1, 200, 600, 64, 16)
    logits = np.einsum("bnc,bmc->bnm", query, key)
    query = query * (60 / np.abs(logits).max())
    actual = jax.jit(value_and_gradients(position_attention))(query, key, value, cotangent)
    for result, expected in zip(actual, attention_and_gradients(query, key, value, cotangent), strict=True):
        assert relative_error(result, expected) < 1e-5


def test_logits_beyond_the_range_of_exp(rng):
    query, key, value, _ = random_inputs(rng, 1, 20, 30, 8, 4, scale=30.0)
    output = position_attention(query, key, value)
    weights = softmax(np.einsum("bnc,bmc->bnm", *(np.asarray(x, np.float64) for x in (query, key))))
    # The exponents are in the thousands.
    assert relative_error(output, weights @ np.asarray(value, np.float64)) < 1e-2
    assert np.isfinite(output).all()


@pytest.mark.parametrize("backend", ["auto", "rows", "reference"])
def test_masked_keys(rng, backend):
    """The result is as without the masked keys, which may contain NaN and have no gradient."""
    query, key, value, cotangent = random_inputs(rng, 3, 40, 50, 8, 12)
    counts = np.array([50, 33, 0])
    mask = jnp.asarray(np.arange(50) < counts[:, None])
    invalid = [jnp.where(mask[..., None], x, jnp.nan) for x in (key, value)]

    def masked(query, key, value):
        return position_attention(query, key, value, key_mask=mask, backend=backend)

    results = jax.jit(value_and_gradients(masked))(query, *invalid, cotangent)
    for i, count in enumerate(counts):
        arrays = [x[i : i + 1] for x in (query, key[:, :count], value[:, :count], cotangent)]
        if count:
            for result, expected in zip(results, attention_and_gradients(*arrays), strict=True):
                existing = result[i : i + 1, : expected.shape[1]]
                assert relative_error(existing, expected) < 1e-5
                np.testing.assert_array_equal(result[i, expected.shape[1] :], 0)
        else:
            assert all((np.asarray(result[i]) == 0).all() for result in results)


@pytest.mark.parametrize("backend", ["auto", "rows", "reference"])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_nan_is_propagated(rng, backend, which):
    arrays = random_inputs(rng, 1, 600, 700, 8, 4)
    query, key, value = (x.at[0, 5, 2].set(jnp.nan) if i == which else x for i, x in enumerate(arrays[:3]))
    output = np.asarray(position_attention(query, key, value, backend=backend))
    affected = [output[0, 5], output, output[..., 2]][which]
    assert np.isnan(affected).all()


def test_unavailable_kernels_and_mixed_dtypes_are_refused(rng):
    query, key, value, _ = random_inputs(rng, 1, 4, 4, 8, 8, jnp.bfloat16)
    for backend in ("splash", "cudnn"):
        with refused(what="backend", value=backend):
            position_attention(query, key, value, backend=backend)
    with pytest.raises(TypeError):
        position_attention(query, key, value.astype(jnp.float32))


@pytest.mark.parametrize("masked", [False, True])
def test_derivatives_of_any_order_and_mode(rng, masked):
    """Against central differences of the gradient in float64."""
    query, key, value, cotangent = random_inputs(rng, 1, 3, 4, 2, 3)
    direction = jnp.asarray(rng.standard_normal(query.shape), jnp.float32)
    mask = jnp.asarray([[True, False, True, True]]) if masked else None
    exists = np.asarray(mask[0]) if masked else np.ones(4, bool)

    def loss(query):
        out = position_attention(query, key, value, key_mask=mask, backend="reference")
        return jnp.sum(out * cotangent)

    def gradient(query):
        arrays = query, np.asarray(key)[:, exists], np.asarray(value)[:, exists], cotangent
        return attention_and_gradients(*arrays)[1]

    step = 1e-5
    wide, along = np.asarray(query, np.float64), np.asarray(direction, np.float64)
    slope = np.sum(gradient(wide) * along)
    curve = (gradient(wide + step * along) - gradient(wide - step * along)) / (2 * step)
    np.testing.assert_allclose(jax.jvp(loss, (query,), (direction,))[1], slope, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(jax.linearize(loss, query)[1](direction), slope, rtol=1e-3, atol=1e-4)
    hessian = jax.hessian(loss)(query).reshape(query.size, query.size)
    np.testing.assert_allclose(hessian @ direction.ravel(), curve.ravel(), rtol=1e-3, atol=1e-4)
    product = jax.grad(lambda query: jnp.sum(jax.grad(loss)(query) * direction))(query)
    np.testing.assert_allclose(product, curve, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("backend", ["auto", "blockwise"])
@pytest.mark.parametrize("transform", [jax.jit, lambda function: function])
def test_second_derivatives_of_kernels_are_refused(rng, backend, transform):
    query, key, value, _ = random_inputs(rng, 1, 3, 4, 2, 3)

    def slope(*arrays):
        loss = lambda *arrays: jnp.sum(position_attention(*arrays, backend=backend) ** 2)  # noqa: E731
        return sum(jnp.sum(x) for x in jax.grad(loss, (0, 1, 2))(*arrays))

    for argument in range(3):
        with refused(what="backend") as caught:
            transform(jax.grad(slope, argument))(query, key, value)
        assert 'backend="reference"' in str(caught.value)


def test_under_vmap_and_remat(rng):
    query, key, value, _ = (x.reshape(2, 3, *x.shape[1:]) for x in random_inputs(rng, 6, 10, 12, 8, 4))

    def loss(query, key, value):
        return jnp.sum(jnp.sin(position_attention(query, key, value)))

    one_by_one = [jax.grad(loss)(query[i], key[0], value[i]) for i in range(2)]
    mapped = jax.vmap(jax.grad(jax.checkpoint(loss)), in_axes=(0, None, 0))(query, key[0], value)
    np.testing.assert_allclose(mapped, jnp.stack(one_by_one), rtol=1e-5, atol=1e-6)
    inner = jax.vmap(jax.vmap(position_attention, in_axes=2, out_axes=2), in_axes=0)
    moved = [jnp.moveaxis(x[:, None], 1, 3) for x in (query, key, value)]
    np.testing.assert_allclose(
        inner(*moved)[:, :, :, 0], jax.vmap(position_attention)(query, key, value), rtol=1e-5, atol=1e-6
    )


def test_without_jit(rng):
    arrays = random_inputs(rng, 1, 20, 30, 8, 4)
    with jax.disable_jit():
        actual = value_and_gradients(position_attention)(*arrays)
    for result, expected in zip(actual, attention_and_gradients(*arrays), strict=True):
        assert relative_error(result, expected) < 1e-5


def largest_array(text):
    """Returns the number of elements of the largest array in a StableHLO or HLO text."""
    shapes = re.findall(r"tensor<([\dx]+)x[a-z]", text) + re.findall(r"\b[a-z]+\d+\[([\d,]+)\]", text)
    return max(int(np.prod([int(n) for n in re.split("[x,]", shape)])) for shape in shapes)


def test_no_array_has_the_size_of_the_attention_map():
    positions = 4096
    specs = [jax.ShapeDtypeStruct((1, positions, channels), jnp.float32) for channels in (64, 64, 512, 512)]
    lowered = jax.jit(value_and_gradients(position_attention)).lower(*specs)
    for text in (lowered.as_text(), lowered.compile().as_text()):
        assert positions * 512 <= largest_array(text) < positions * positions / 4
    plain = value_and_gradients(lambda *x: position_attention(*x, backend="reference"))
    assert largest_array(jax.jit(plain).lower(*specs).as_text()) >= positions * positions


def test_scratch_memory_is_linear():
    """At 1024 x 2048, less than 5 % of the plain formula's, and at most 2.1 times that of half as many positions."""

    def scratch(positions, backend):
        function = value_and_gradients(lambda *x: position_attention(*x, backend=backend))
        specs = [
            jax.ShapeDtypeStruct((1, positions, channels), jnp.float32) for channels in (64, 64, 512, 512)
        ]
        return jax.jit(function).lower(*specs).compile().memory_analysis().temp_size_in_bytes

    whole, half = scratch(32768, "blockwise"), scratch(16384, "blockwise")
    assert whole < 0.05 * scratch(32768, "reference")
    assert whole <= 2.1 * half


@pytest.mark.parametrize("devices", [(4, 2), (1, 8), (8, 1)], ids=str)
def test_sharded_arrays(rng, devices):
    """Sharded as in the model, images over `data` and rows over `space`, without large transfers."""
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(devices), ("data", "space"))
    batch, height, width = 8, 16, 20
    x = jnp.asarray(rng.standard_normal((batch, height, width, 6)), jnp.float32)
    weights = [jnp.asarray(0.4 * rng.standard_normal((6, c)), jnp.float32) for c in (8, 8, 12)]

    def loss(x, *weights):
        query, key, value = ((x @ w).reshape(batch, height * width, -1) for w in weights)
        return jnp.mean(jnp.sin(position_attention(query, key, value)) ** 2)

    function = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))
    expected = function(x, *weights)
    x = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data", "space")))
    weights = [jax.device_put(w, NamedSharding(mesh, PartitionSpec())) for w in weights]
    actual = function(x, *weights)
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert relative_error(one, other) < 1e-4
    text = function.lower(x, *weights).compile().as_text()
    transfers = [
        line
        for line in text.splitlines()
        if re.search(r" (all-gather|all-reduce|all-to-all)(-start)?\(", line)
    ]
    assert transfers
    assert max(map(largest_array, transfers)) <= batch * height * width * 12 < (height * width) ** 2


def test_axes_of_the_mesh_that_shard_images_and_rows():
    mesh = {"data": 4, "space": 2}
    assert mesh_axes(mesh, 4, 100) == {"b": ("data",), "n": ("space",)}
    assert mesh_axes(mesh, 8, 100) == {"b": ("data",), "n": ("space",)}
    assert mesh_axes(mesh, 8, 25) == {"b": ("data", "space"), "n": ()}
    assert mesh_axes(mesh, 1, 100) == {"b": (), "n": ("data",)}
    assert mesh_axes(mesh, 3, 25) == {"b": (), "n": ()}


def test_rows_and_columns_of_the_map(rng):
    query, key, _, _ = random_inputs(rng, 2, 30, 40, 8, 4)
    mask = jnp.asarray(np.arange(40) < np.array([[40], [25]]))
    logits = np.einsum("bnc,bmc->bnm", *(np.asarray(x, np.float64) for x in (query, key)))
    for key_mask in (None, mask):
        attention = softmax(logits if key_mask is None else np.where(mask[:, None], logits, -np.inf))
        index = jnp.asarray(rng.integers(0, 25, (2, 3)))
        rows = attention_row(query, key, index, key_mask=key_mask)
        np.testing.assert_allclose(
            rows, np.take_along_axis(attention, np.asarray(index)[..., None], 1), rtol=1e-4, atol=1e-7
        )
        normaliser = row_logsumexp(query, key, key_mask=key_mask, rows=7)
        columns = attention_column(query, key, normaliser, index)
        np.testing.assert_allclose(
            columns, np.take_along_axis(attention, np.asarray(index)[:, None], 2), rtol=1e-4, atol=1e-7
        )


def test_row_statistics(rng):
    query, key = (jnp.asarray(rng.standard_normal((2, 32, 3)), jnp.float32) for _ in range(2))
    spread, entropy = row_statistics(query, key, rows=32)
    logits = np.einsum("bnc,bmc->bnm", *(np.asarray(x, np.float64) for x in (query, key)))
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(spread, logits.std(-1).mean(), rtol=1e-4)
    np.testing.assert_allclose(entropy, -(weights * np.log(weights)).sum(-1).mean() / np.log(32), rtol=1e-4)
    # A map that averages everything, and one that selects a single position.
    np.testing.assert_allclose(row_statistics(0 * query, key)[1], 1, rtol=1e-5)
    assert row_statistics(1000 * query, key)[1] < 0.3
