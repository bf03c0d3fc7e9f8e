"""What a network saw in a picture, against numpy in float64 and the network itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from danet_jax import DANet, Protocol, Segmenter, normalize
from danet_jax.models import resnet
from danet_jax.ops.resize import resize_bilinear
from tests.reference.refusal import refused


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setitem(resnet.BLOCKS, "resnet18", (1, 1, 1, 1))


def network(**options):
    model = DANet(4, backbone="resnet18", **options)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    head = variables["params"]["head"]
    if "position_attention" in head:
        head["position_attention"]["alpha"] = jnp.float32(0.5)
    return model, variables


def test_rows_and_columns_are_those_of_the_whole_map(rng):
    model, variables = network()
    segment = Segmenter(model, variables, Protocol.whole().replace(base_size=60))
    image = rng.integers(0, 256, (33, 41, 3), np.uint8)
    insight = segment.explain(image)
    assert insight.size == (6, 8)  # of 48 x 60
    queries, keys = (np.asarray(x, np.float64) for x in (insight.queries, insight.keys))
    logits = queries @ keys.T
    whole = np.exp(logits - logits.max(1, keepdims=True))
    whole /= whole.sum(1, keepdims=True)
    places = np.stack([rng.integers(0, 6, 5), rng.integers(0, 8, 5)], 1)
    index = places[:, 0] * 8 + places[:, 1]
    maps = segment.attention(image, places)
    assert maps.rows.shape == maps.columns.shape == (5, 6, 8)
    assert maps.rows.dtype == maps.columns.dtype == np.float32
    np.testing.assert_allclose(maps.rows, whole[index].reshape(5, 6, 8), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(maps.columns, whole[:, index].T.reshape(5, 6, 8), rtol=1e-4, atol=1e-7)

    x = resize_bilinear(normalize(jnp.asarray(image[None])), (48, 60), align_corners=False)
    expected = model.apply(variables, x, upsample=False)
    for ours, theirs in zip(insight.logits, expected, strict=True):
        if theirs is not None:
            np.testing.assert_allclose(ours, theirs[0], rtol=1e-4, atol=1e-5)
    assert (insight.alpha, insight.beta) == (0.5, 0.0)


def test_places_and_pictures_that_do_not_exist_are_refused(rng):
    segment = Segmenter(*network())
    image = rng.integers(0, 256, (33, 41, 3), np.uint8)
    insight = segment.explain(image)
    for places in ([[5, 0]], [[0, -1]], [], [[0.5, 1.0]], [0, 1], [[0, 1], [2]], "a"):
        with refused() as caught:
            insight.maps(places)
        assert "places" in str(caught.value)
    for wrong in (image[None], image[..., :2], image / 255, None, [[1]]):
        with refused(what="image"):
            segment.explain(wrong)


def test_without_position_attention_there_are_logits_only(rng):
    segment = Segmenter(*network(position_attention=False, channel_attention=False))
    insight = segment.explain(rng.integers(0, 256, (33, 41, 3), np.uint8))
    assert insight.queries is insight.alpha is insight.beta is insight.logits.position is None
    with refused():
        insight.maps([[0, 0]])
