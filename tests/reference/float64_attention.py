"""Random inputs for attention, and attention and its gradients by their formulas in float64."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np


def softmax(x: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    exponential = np.exp(x - x.max(axis=-1, keepdims=True))
    return exponential / exponential.sum(axis=-1, keepdims=True)


def random_inputs(rng, batch, queries, keys, key_channels, value_channels, dtype="float32", scale=1.0):
    """Returns query, key and value, and a cotangent; logits have a standard deviation of `scale**2 * sqrt(Ck)`."""
    shapes = (queries, key_channels), (keys, key_channels), (keys, value_channels), (queries, value_channels)
    return [
        jnp.asarray(factor * rng.standard_normal((batch, *shape)), dtype)
        for shape, factor in zip(shapes, (scale, scale, 1.0, 1.0), strict=True)
    ]


def attention_and_gradients(query, key, value, cotangent) -> tuple[np.ndarray, ...]:
    """Output, and the gradients of query, key and value for `cotangent` of the output."""
    query, key, value, cotangent = (np.asarray(x, np.float64) for x in (query, key, value, cotangent))
    weights = softmax(query @ key.swapaxes(1, 2))
    dweights = cotangent @ value.swapaxes(1, 2)
    dlogits = weights * (dweights - (dweights * weights).sum(axis=-1, keepdims=True))
    return (
        weights @ value,
        dlogits @ key,
        dlogits.swapaxes(1, 2) @ query,
        weights.swapaxes(1, 2) @ cotangent,
    )


def relative_error(actual, expected) -> float:
    """The largest difference, as a fraction of the largest expected number."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    assert np.isfinite(actual).all()
    return float(np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-30))
