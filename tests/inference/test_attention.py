"""A network's attention maps and intermediate results, against numpy in float64 and the network itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from danet_jax import DANet, Protocol, Segmenter, normalize
from danet_jax.models import resnet
from danet_jax.ops.resize import resize_bilinear
from tests.reference.refusal import refused


@pytest.fixture(autouse=True)
def _few_blocks(monkeypatch):
    monkeypatch.setitem(resnet.BLOCKS, "resnet18", (1, 1, 1, 1))


def network(**options):
    model = DANet(4, backbone="resnet18", **options)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    head = variables["params"]["head"]
    if "position_attention" in head:
        head["position_attention"]["alpha"] = jnp.float32(0.5)
    return model, variables


def test_attention_maps_are_rows_and_columns_of_the_complete_map(rng):
    model, variables = network()
    segment = Segmenter(model, variables, Protocol.whole().replace(base_size=60))
    image = rng.integers(0, 256, (33, 41, 3), np.uint8)
    explanation = segment.explain(image)
    assert explanation.size == (6, 8)  # of 48 x 60
    queries, keys = (np.asarray(x, np.float64) for x in (explanation.queries, explanation.keys))
    logits = queries @ keys.T
    complete = np.exp(logits - logits.max(1, keepdims=True))
    complete /= complete.sum(1, keepdims=True)
    positions = np.stack([rng.integers(0, 6, 5), rng.integers(0, 8, 5)], 1)
    index = positions[:, 0] * 8 + positions[:, 1]
    maps = segment.attention(image, positions)
    assert maps.rows.shape == maps.columns.shape == (5, 6, 8)
    assert maps.rows.dtype == maps.columns.dtype == np.float32
    np.testing.assert_allclose(maps.rows, complete[index].reshape(5, 6, 8), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(maps.columns, complete[:, index].T.reshape(5, 6, 8), rtol=1e-4, atol=1e-7)
    with pytest.warns(DeprecationWarning, match="positions"):  # the former name of the argument
        jax.tree.map(np.testing.assert_array_equal, segment.attention(image, places=positions), maps)

    x = resize_bilinear(normalize(jnp.asarray(image[None])), (48, 60), align_corners=False)
    for actual, expected in zip(explanation.logits, model.apply(variables, x, upsample=False), strict=True):
        if expected is not None:
            np.testing.assert_allclose(actual, expected[0], rtol=1e-4, atol=1e-5)
    assert (explanation.alpha, explanation.beta) == (0.5, 0.0)


def test_invalid_positions_and_images_are_refused(rng):
    segment = Segmenter(*network())
    image = rng.integers(0, 256, (33, 41, 3), np.uint8)
    explanation = segment.explain(image)
    for positions in ([[5, 0]], [[0, -1]], [], [[0.5, 1.0]], [0, 1], [[0, 1], [2]], "a"):
        with refused(what="positions"):
            explanation.maps(positions)
    for invalid in (image[None], image[..., :2], image / 255, None, [[1]]):
        with refused(what="image"):
            segment.explain(invalid)


def test_a_network_without_attention_has_only_logits(rng):
    segment = Segmenter(*network(position_attention=False, channel_attention=False))
    explanation = segment.explain(rng.integers(0, 256, (33, 41, 3), np.uint8))
    assert explanation.queries is explanation.alpha is explanation.beta is explanation.logits.position is None
    with refused(what="positions"):
        explanation.maps([[0, 0]])
