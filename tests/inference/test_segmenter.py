"""Properties of every protocol: one window equals the whole image; padding and meshes have no effect."""

import fsspec
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from PIL import Image

from danet_jax import DANet, Protocol, Segmenter
from danet_jax.classes import Classes
from danet_jax.inference import sliding
from danet_jax.inference.predictor import LABELS
from danet_jax.inference.whole_images import WholeImages
from danet_jax.models import resnet
from danet_jax.weights.convert import convert
from tests.reference import torch_danet
from tests.reference.compilations import compilations
from tests.reference.refusal import refused
from tests.reference.small_network import small_networks
from tests.reference.torch_evaluation import authors_scores, normalised

SLIDING = Protocol.mmseg("other").replace(window=(48, 48), stride=(32, 32))


@pytest.fixture(scope="module")
def small():
    """A network, its variables, and the same network in PyTorch."""
    return small_networks(np.random.default_rng(0))


@pytest.fixture(scope="module")
def segment(small):
    """A segmenter of whole images; all tests share its compiled functions."""
    return Segmenter(*small[:2], classes=Classes.named(list("abcde")))


def assert_labels(labels, scores, margin=1.001):
    """Compares labels with scores, except for pixels in which two classes have nearly the same score."""
    ordered = np.sort(scores)
    clear = ordered[..., -1] > margin * ordered[..., -2]
    np.testing.assert_array_equal(labels[clear], scores.argmax(-1)[clear])


@pytest.mark.parametrize("merge", ["softmax", "logits", "exp"])
def test_one_window_over_the_image_equals_the_whole_image(merge, small, rng):
    model, variables, _ = small
    whole = Protocol.whole().replace(merge=merge, flip=True)
    window = whole.replace(window=(41, 57), edge="pad")
    larger = whole.replace(window=(64, 64), edge="shift")
    images = rng.integers(0, 256, (2, 41, 57, 3), dtype=np.uint8)
    expected = Segmenter(model, variables, whole).scores(images)
    for protocol in (window, larger):
        segment = Segmenter(model, variables, protocol)
        np.testing.assert_allclose(segment.scores(images), expected, rtol=1e-4, atol=1e-5)


def test_images_of_many_sizes_share_a_few_padded_programs(small, rng):
    model, variables, _ = small
    padded = Segmenter(model, variables)
    with compilations() as compiled:
        for size in rng.integers(20, 90, (40, 2)):
            assert padded(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).shape == tuple(size)
    assert len(compiled) <= 8
    for size in ((41, 57), (40, 33), (57, 250)):
        images = rng.integers(0, 256, (2, *size, 3), dtype=np.uint8)
        expected = Segmenter(model, variables).scores(images)  # the first size is not padded
        np.testing.assert_allclose(padded.scores(images), expected, rtol=1e-4, atol=1e-6)
        assert_labels(padded(images), expected)


def test_danet_equals_pytorch_in_windows_and_as_a_whole(rng):
    options = {"backbone": "resnet18"}
    network = torch_danet.randomise(torch_danet.DANet(5, **options), rng)
    variables = convert({name: tensor.numpy() for name, tensor in network.state_dict().items()}).variables
    model = DANet(5, **options)
    image = rng.integers(0, 256, (97, 129, 3), dtype=np.uint8)
    protocol = Protocol.authors().replace(base_size=129, window=(65, 65), stride=(43, 43))
    segment = Segmenter(model, variables, protocol)
    expected = authors_scores(
        lambda x: network(x)[0], image, base_size=129, crop=65, stride=43, scales=(1.0,)
    )
    scores = segment.scores(image[None])[0]
    assert np.abs(scores - expected).max() < 1e-4 * np.abs(expected).max()
    labels = segment(image[None])
    assert (labels.shape, labels.dtype) == ((1, 97, 129), np.int32)
    assert_labels(labels[0], expected)

    segment = Segmenter(model, variables)
    with torch.no_grad():
        expected = network(normalised(image))[0].softmax(1)[0].permute(1, 2, 0).numpy()
    scores = segment.scores(image[None])
    np.testing.assert_allclose(scores[0], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scores.sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("scales", [(1.0,), (0.75, 1.5)])
def test_exponentials_neither_overflow_nor_vanish(scales, rng):
    # Sums of two logits of several hundred: exp overflows float32 past 88, and vanishes as far below.
    model, variables, network = small_networks(rng, gain=20.0, common=200.0)
    protocol = Protocol.authors().replace(base_size=80, window=(48, 48), stride=(32, 32), scales=scales)
    segment = Segmenter(model, variables, protocol)
    coarse = rng.integers(0, 256, (8, 10, 3)).repeat(10, 0).repeat(8, 1)
    image = coarse.astype(np.uint8)
    options = {"base_size": 80, "crop": 48, "stride": 32, "scales": scales}
    log = authors_scores(network, image, **options, dtype=torch.float64, log=True)
    assert log.max(-1).max() > 100
    assert log.max(-1).min() < -100
    scores = segment.scores(image[None])[0].astype(np.float64)
    assert np.isfinite(scores).all()
    best = log.max(-1, keepdims=True)
    # Logits of hundreds are themselves known to a few 1e-5 only.
    relative = scores / scores.max(-1, keepdims=True)
    np.testing.assert_allclose(relative, np.exp(log - best), rtol=5e-3, atol=1e-6)
    np.testing.assert_allclose(np.log(scores.max(-1)), np.clip(best[..., 0], -60, 80), atol=5e-3)
    clear = np.sort(log)[..., -1] > np.sort(log)[..., -2] + 1e-2
    np.testing.assert_array_equal(segment(image[None])[0][clear], log.argmax(-1)[clear])


@pytest.mark.parametrize("merge", ["exp", "logits"])
def test_the_size_of_the_tiles_has_no_effect(merge, small, rng):
    # Small tiles of large windows, at scales on both sides of each step, need parts of different sizes.
    model, variables, _ = small
    protocol = Protocol.authors().replace(
        base_size=None, window=(104, 120), stride=(90, 60), merge=merge, scales=(0.4, 1.0, 1.1, 2.0, 2.1, 4.1)
    )
    image = rng.integers(0, 256, (1, 45, 70, 3), dtype=np.uint8)
    large, small = (Segmenter(model, variables, protocol) for _ in range(2))
    small._predictor._tile_size = (8, 16)
    np.testing.assert_allclose(small.scores(image), large.scores(image), rtol=2e-5, atol=1e-5)


def test_an_image_whose_windows_do_not_fit_in_memory_is_processed_in_bands(small, rng, monkeypatch):
    model, variables, _ = small
    protocol = Protocol.mmseg("other").replace(window=(48, 48), stride=(20, 31), flip=True, scales=(0.7, 1.0))
    image = rng.integers(0, 256, (1, 333, 140, 3), dtype=np.uint8)
    expected = Segmenter(model, variables, protocol).scores(image)
    monkeypatch.setattr(sliding, "LOGITS_BYTES", 1)
    segment = Segmenter(model, variables, protocol)
    np.testing.assert_array_equal(segment.scores(image), expected)
    windows = 2 * (10 * 3 + 15 * 4)  # both flips of both scales
    assert segment._predictor._capacity < windows


@pytest.mark.parametrize(
    "protocol",
    [
        Protocol.whole(),
        Protocol.whole().replace(base_size=70, flip=True, merge="exp"),
        Protocol.authors().replace(base_size=80, window=(48, 48), stride=(32, 32)),
    ],
)
def test_a_mesh_of_devices_gives_the_same_scores(small, protocol, rng):
    """A batch is divided over the axis `data`, the rows of whole images over `space`."""
    model, variables, _ = small
    mesh = Mesh(np.asarray(jax.devices()[:8]).reshape(2, 4), ("data", "space"))
    images = rng.integers(0, 256, (3, 45, 60, 3), dtype=np.uint8)
    many = Segmenter(model, variables, protocol, mesh=mesh)
    expected = Segmenter(model, variables, protocol).scores(images)
    np.testing.assert_allclose(many.scores(images), expected, rtol=2e-4, atol=1e-6)
    assert_labels(many(images), expected)


def test_inputs_of_a_network_without_sizes_are_never_padded(small, rng):
    model, variables, _ = small

    class Exact(type(model)):
        accepts_sizes = False

        def __call__(self, images, *, sizes=None, upsample=True, train=False):
            assert sizes is None
            return super().__call__(images, upsample=upsample, train=train)

    exact = Exact(model.num_classes)
    images = [rng.integers(0, 256, (1, *size, 3), dtype=np.uint8) for size in ((41, 57), (40, 33), (64, 49))]
    for protocol in (Protocol.whole(), SLIDING):
        actual, expected = Segmenter(exact, variables, protocol), Segmenter(model, variables, protocol)
        for image in images:
            np.testing.assert_allclose(actual.scores(image), expected.scores(image), rtol=1e-4, atol=1e-6)


def test_images_may_be_arrays_paths_addresses_pil_images_or_lists(segment, rng, tmp_path):
    image = rng.integers(0, 256, (30, 41, 3), dtype=np.uint8)
    [expected] = segment(image[None])
    path = tmp_path / "photo.png"
    Image.fromarray(image).save(path)
    turned = Image.fromarray(np.rot90(image))  # to be shown upright
    turned.getexif()[0x0112] = 6
    fsspec.filesystem("memory").pipe("/photo.png", path.read_bytes())
    address = "memory://photo.png"
    for one in (image, jnp.asarray(image), str(path), path, address, Image.fromarray(image), turned):
        np.testing.assert_array_equal(segment(one), expected)
        assert segment.overlay(one).size >= (41, 30)
    several = segment([image, path, image[:20], image])
    assert [labels.shape for labels in several] == [(30, 41), (30, 41), (20, 41), (30, 41)]
    assert segment([]) == []
    assert len(segment.overlay(np.stack([image, image]))) == 2
    np.testing.assert_array_equal(segment.overlay(image), segment.overlay([image])[0])
    with refused(what="images", value="I;16"):
        segment(Image.fromarray(np.zeros((4, 4), np.uint16)))


@pytest.mark.parametrize("protocol", [Protocol.whole(), SLIDING])
def test_a_stream_keeps_the_order_and_copies_its_images(small, protocol, rng):
    segment = Segmenter(*small[:2], protocol)
    images = rng.integers(0, 256, (11, 40, 56, 3), dtype=np.uint8)
    images = [*images[:7], images[7, :33], *images[8:]]
    buffer = np.empty((40, 56, 3), np.uint8)

    def camera():
        for image in images:
            view = buffer[: len(image)]
            view[...] = image
            yield view

    for labels, image in zip(segment.stream(camera()), images, strict=True):
        assert_labels(labels, segment.scores(image[None])[0])


def test_small_batches_are_not_padded_if_exact(segment, rng):
    images = rng.integers(0, 256, (7, 40, 56, 3), dtype=np.uint8)
    alone = np.concatenate([segment.scores(image[None]) for image in images])
    np.testing.assert_allclose(segment.scores(images), alone, rtol=2e-4, atol=1e-6)
    predictor = segment._predictor
    for exact, sizes in ((True, [4, 2, 1]), (False, [8])):
        parts = predictor.run(segment.variables, predictor.group(40, 56), list(images), LABELS, exact=exact)
        assert [len(labels) for _, labels in parts] == sizes


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"base_size": 96, "flip": True, "image_resize": "uint8"}, marks=pytest.mark.slow),
    ],
    ids=["whole", "scaled and flipped"],
)
def test_the_program_for_a_tpu_has_no_gather(changes, monkeypatch):
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
