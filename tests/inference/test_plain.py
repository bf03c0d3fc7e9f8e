"""Whole images: what is compiled for a TPU gathers nothing; and batches over a mesh whose axis `space` divides rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from danet_jax import DANet, Protocol, Segmenter
from danet_jax.inference.plain import WholeImages
from danet_jax.inference.predictor import LABELS
from danet_jax.models import resnet
from tests.reference.small_network import small_networks


@pytest.mark.parametrize("changes", [{}, {"base_size": 96, "flip": True, "image_resize": "uint8"}])
def test_compiled_for_a_tpu_it_gathers_nothing(changes, monkeypatch):
    pytest.importorskip("libtpu", reason="needs libtpu, the compiler for TPUs")
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # another process may be compiling too
    monkeypatch.setitem(resnet.BLOCKS, "resnet18", (1, 1, 1, 1))
    model = DANet(4, backbone="resnet18")
    devices = topologies.get_topology_desc("v5e:2x2", "tpu").devices[:1]
    mesh = Mesh(np.asarray(devices).reshape(1, 1), ("data", "space"))
    protocol = Protocol.whole().replace(**changes).for_network(True)
    whole = WholeImages(model, protocol, mesh)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    inputs = whole.inputs(whole.group(48, 64), [])
    sharding = NamedSharding(mesh, PartitionSpec())
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), (variables, inputs)
    )
    text = whole.program.lower(*shapes, reduction=LABELS).compile().as_text()
    assert "fusion" in text
    assert " gather(" not in text
    assert "dynamic-gather" not in text


def test_rows_are_divided_over_the_axis_space(rng):
    model, variables, _ = small_networks(rng)
    mesh = Mesh(np.asarray(jax.devices()[:8]).reshape(2, 4), ("data", "space"))
    images = rng.integers(0, 256, (3, 45, 60, 3), dtype=np.uint8)
    for protocol in (Protocol.whole(), Protocol.whole().replace(base_size=70, flip=True, merge="exp")):
        one, many = Segmenter(model, variables, protocol), Segmenter(model, variables, protocol, mesh=mesh)
        expected = one.scores(images)
        np.testing.assert_allclose(many.scores(images), expected, rtol=2e-4, atol=1e-6)
        clear = np.sort(expected)[..., -1] > 1.001 * np.sort(expected)[..., -2]
        np.testing.assert_array_equal(many(images)[clear], expected.argmax(-1)[clear])


def test_images_of_many_sizes_compile_at_most_eight_functions(rng):
    model, variables, _ = small_networks(rng)
    segment = Segmenter(model, variables)
    compiled = []

    def count(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        for _ in range(40):
            size = rng.integers(20, 90, 2)
            assert segment(rng.integers(0, 256, (1, *size, 3), dtype=np.uint8)).shape == (1, *size)
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert len(compiled) <= 8


def test_few_images_are_computed_together_and_no_more_than_these(rng):
    model, variables, _ = small_networks(rng)
    segment = Segmenter(model, variables)
    images = rng.integers(0, 256, (7, 40, 56, 3), dtype=np.uint8)
    alone = np.concatenate([segment.scores(image[None]) for image in images])
    np.testing.assert_allclose(segment.scores(images), alone, rtol=2e-4, atol=1e-6)
    whole = segment._predictor
    parts = whole.run(segment.variables, whole.group(40, 56), list(images), LABELS, exact=True)
    assert [len(labels) for _, labels in parts] == [4, 2, 1]
    parts = whole.run(segment.variables, whole.group(40, 56), list(images), LABELS)
    assert [len(labels) for _, labels in parts] == [8]
    clear = np.sort(alone)[..., -1] > 1.001 * np.sort(alone)[..., -2]
    for labels, expected, known in zip(segment.stream(images), alone.argmax(-1), clear, strict=True):
        np.testing.assert_array_equal(labels[known], expected[known])
