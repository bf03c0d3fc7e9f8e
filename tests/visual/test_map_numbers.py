"""The numbers of the position attention map in the explorer's page, beside the whole map in float64."""

import numpy as np
import pytest

from danet_jax.visual.explorer.numbers import average_cells, centre, compute_map_numbers, quantise


def vectors(rng, positions, channels, spread):
    """Returns queries and keys with logits of about `spread`, around means that are not zero."""
    queries = rng.normal(1.0, spread**0.5, (positions, channels)) / channels**0.25
    keys = rng.normal(-2.0, spread**0.5, (positions, channels)) / channels**0.25
    return queries.astype(np.float32), keys.astype(np.float32)


def whole_map(queries, keys):
    logits = queries.astype(np.float64) @ keys.astype(np.float64).T
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("spread", [0.5, 100.0])
def test_rows_from_16_bit_queries_and_keys(rng, spread):
    queries, keys = vectors(rng, 500, 64, spread)
    stored = [np.multiply(*quantise(part)) for part in (queries, centre(keys))]
    exact, found = whole_map(queries, keys), whole_map(*stored)
    assert np.abs(found - exact).max() < 1e-2
    assert (found.argmax(1) == exact.argmax(1)).mean() > 0.99


def test_channels_that_are_zero(rng):
    queries, keys = vectors(rng, 20, 8, 1.0)
    queries[:, 3] = 0
    keys[:, 5] = 2.5  # zero once centred
    stored = [np.multiply(*quantise(part)) for part in (queries, centre(keys))]
    np.testing.assert_allclose(whole_map(*stored), whole_map(queries, keys), atol=1e-3)


@pytest.mark.parametrize("grid", [(7, 9), (1, 30), (64, 66)])
def test_statistics_of_rows_and_columns(rng, grid):
    h, w = grid
    queries, keys = vectors(rng, h * w, 16, 4.0)
    numbers = compute_map_numbers(queries, keys, grid)
    weights = whole_map(queries, keys)
    rows, columns = np.divmod(np.arange(h * w), w)
    far = np.hypot(rows[:, None] - rows, columns[:, None] - columns)
    entropy = -(weights * np.log2(np.maximum(weights, 1e-300))).sum(1)
    logits = queries.astype(np.float64) @ keys.astype(np.float64).T
    np.testing.assert_allclose(numbers.entropy, entropy, atol=2e-3)
    np.testing.assert_allclose(numbers.distance, (weights * far).sum(1), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(numbers.received, weights.sum(0), rtol=1e-2, atol=1e-3)
    np.testing.assert_allclose(numbers.logsumexp, np.logaddexp.reduce(logits, 1), atol=2e-3)
    assert numbers.pooled is None


@pytest.mark.parametrize(("grid", "cell"), [((6, 8), 2), ((7, 11), 3)])
def test_pooled_weights_are_sums(rng, grid, cell):
    h, w = grid
    queries, keys = vectors(rng, h * w, 16, 4.0)
    numbers = compute_map_numbers(queries, keys, grid, cell)
    weights = whole_map(queries, keys)
    across = -(-w // cell)
    home = np.array([(p // w) // cell * across + (p % w) // cell for p in range(h * w)])
    cells = home.max() + 1
    expected = np.zeros((cells, cells))
    for j in range(cells):
        for i in range(cells):
            expected[j, i] = weights[home == j][:, home == i].sum(1).mean()
    np.testing.assert_allclose(numbers.pooled, expected, atol=1e-4)
    np.testing.assert_allclose(numbers.pooled.sum(1), 1, atol=1e-4)
    values = rng.normal(size=(h * w, 2)).astype(np.float32)
    means = [values[home == j].mean(0) for j in range(cells)]
    np.testing.assert_allclose(average_cells(values, grid, cell), means, atol=1e-5)
