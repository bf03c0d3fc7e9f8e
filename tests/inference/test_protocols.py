"""Scores under every protocol against PyTorch, which applies the network to one window at a time."""

import numpy as np
import pytest
import torch

from danet_jax.classes import Classes
from danet_jax.inference.protocol import AUTHORS_SCALES, MMSEG_SCALES, Protocol, protocol_of
from danet_jax.inference.segmenter import Segmenter
from tests.reference.refusal import refused
from tests.reference.small_network import small_networks
from tests.reference.torch_evaluation import authors_scores, mmseg_scores

CROP = 48
torch.set_num_threads(1)  # for windows this small, threads cost more than they bring
# Odd, smaller than the window, equal to it, one pixel more, upright, and so narrow that a scale is one pixel.
SIZES = [(97, 129), (31, 40), (CROP, CROP), (CROP + 1, CROP + 1), (129, 50), (3, 61)]


def of_ade20k(evaluation):
    return protocol_of({"dataset": {"name": "ade20k"}, "evaluation": evaluation})


def authors(base_size, multi_scale, flip=True):
    stride = CROP // 2 if multi_scale else int(CROP * 2 / 3)
    protocol = Protocol.authors(multi_scale=multi_scale).replace(
        base_size=base_size, window=(CROP, CROP), stride=(stride, stride), flip=flip
    )
    options = {
        "base_size": base_size,
        "crop": CROP,
        "stride": stride,
        "scales": AUTHORS_SCALES if multi_scale else (1.0,),
        "flip": flip,
    }
    return protocol, options


def random_image(rng, size):
    """Returns an image with structures larger than a pixel, so that resizing matters."""
    coarse = rng.integers(0, 256, (size[0] // 9 + 2, size[1] // 9 + 2, 3)).repeat(9, 0).repeat(9, 1)
    noise = rng.integers(-30, 31, (*size, 3))
    return np.clip(coarse[: size[0], : size[1]] + noise, 0, 255).astype(np.uint8)


def assert_close(scores, expected):
    assert scores.dtype == np.float32
    assert scores.shape == (1, *expected.shape)
    # Relative to the scores of the pixel, because the magnitude of exponentials varies.
    error = np.abs(scores[0] - expected) / np.abs(expected).max(-1, keepdims=True)
    assert error.max() < 1e-4


@pytest.mark.parametrize("multi_scale", [False, True])
def test_protocol_of_the_authors(multi_scale, rng):
    model, variables, network = small_networks(rng)
    protocol, options = authors(60 if multi_scale else 110, multi_scale)
    segment = Segmenter(model, variables, protocol)
    for size in SIZES:
        image = random_image(rng, size)
        expected = authors_scores(network, image, **options, dtype=torch.float64)
        assert_close(segment.scores(image[None]), expected)
        clear = np.sort(expected)[..., -1] > 1.0001 * np.sort(expected)[..., -2]
        labels = segment(image[None])
        assert labels.dtype == np.int32
        np.testing.assert_array_equal(labels[0][clear], expected.argmax(-1)[clear])


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("multi_scale", [False, True])
def test_protocol_of_mmsegmentation_in_windows(multi_scale, align_corners, rng):
    model, variables, network = small_networks(rng, align_corners=align_corners)
    changes = {"base_size": None, "window": (CROP, CROP), "stride": (31, 33)}
    protocol = Protocol.mmseg(multi_scale=multi_scale).replace(**changes)
    assert protocol.align_corners is None  # then it is the network's
    segment = Segmenter(model, variables, protocol)
    for size in SIZES:
        image = random_image(rng, size)
        scales = MMSEG_SCALES if multi_scale else (1.0,)
        expected = mmseg_scores(
            network,
            image,
            scales=scales,
            flip=multi_scale,
            align_corners=align_corners,
            **changes,
            dtype=torch.float64,
        )
        assert_close(segment.scores(image[None]), expected)


def test_scaled_sizes_of_mmsegmentation():
    """Models trained on 512x1024 see a 1024x2048 image at 2048x1024, those on 769x769 at 2049x1025, times the scale."""
    whole = Protocol.mmseg("cityscapes", multi_scale=True, whole=True)
    windows = Protocol.mmseg("cityscapes", multi_scale=True)
    assert (whole.window, windows.window, windows.stride) == (None, (769, 769), (513, 513))
    expected = [(512, 1024), (768, 1536), (1024, 2048), (1280, 2560), (1536, 3072), (1792, 3584)]
    assert [whole.scaled_size(scale, 1024, 2048) for scale in MMSEG_SCALES] == expected
    expected = [(512, 1024), (768, 1536), (1025, 2049), (1281, 2561), (1537, 3073), (1793, 3585)]
    assert [windows.scaled_size(scale, 1024, 2048) for scale in MMSEG_SCALES] == expected

    # `Resize(scale=(2048, 512), keep_ratio=True)` and `mode='whole'` in its configs of these data sets.
    for dataset in ("ade20k", "pascal_voc_aug", "coco_stuff10k", "coco_stuff164k"):
        protocol = Protocol.mmseg(dataset)
        assert (protocol.window, protocol.base_size, protocol.image_resize) == (None, (2048, 512), "uint8")
    assert protocol.scaled_size(1.0, 480, 640) == (512, 683)


def test_whole_base_size_of_a_recipe_applies_only_to_whole_images():
    recipe = {"protocol": "whole", "base_size": None, "whole_base_size": (520,)}
    assert of_ade20k(recipe) == Protocol.whole().replace(base_size=520)
    for name in ("authors_ms", "mmseg"):
        assert of_ade20k(recipe | {"protocol": name}) == Protocol.preset(name, "ade20k")
    assert of_ade20k(recipe | {"base_size": ()}) == Protocol.whole()
    recipe |= {"protocol": "authors", "base_size": (600, 300)}
    assert of_ade20k(recipe).base_size == (600, 300)


def test_normalisation_by_other_means(rng):
    model, variables, network = small_networks(rng)
    mean, std = (0.1, 0.5, 0.7), (0.5, 1.0, 0.25)
    protocol = Protocol.whole().replace(mean=mean, std=std)
    assert of_ade20k({"mean": mean, "std": std}) == protocol
    image = random_image(rng, (40, 56))
    x = (image / 255 - mean) / std
    logits = network(torch.tensor(x.transpose(2, 0, 1)[None], dtype=torch.float64))
    expected = logits.detach().softmax(1)[0].permute(1, 2, 0).numpy()
    assert_close(Segmenter(model, variables, protocol).scores(image[None]), expected)


def test_protocol_of_mmsegmentation_for_whole_images(rng):
    model, variables, network = small_networks(rng, align_corners=False)
    protocol = Protocol.mmseg("ade20k", multi_scale=True, whole=True).replace(
        base_size=(120, 50), scales=(0.5, 1.25)
    )
    segment = Segmenter(model, variables, protocol)
    for size in [(97, 129), (61, 34)]:
        images = np.stack([random_image(rng, size) for _ in range(2)])
        scores = segment.scores(images)
        for image, actual in zip(images, scores, strict=True):
            options = {"window": None, "stride": None, "base_size": (120, 50), "align_corners": False}
            expected = mmseg_scores(
                network, image, scales=(0.5, 1.25), flip=True, **options, dtype=torch.float64
            )
            assert_close(actual[None], expected)


CLASSES = Classes.named(["left lane", "sky", "road", "right lane", "car"])
PAIRS = ("left lane=right lane",)
SWAPPED = [3, 1, 2, 0, 4]


@pytest.mark.parametrize(
    "changes",
    [
        {"merge": "softmax"},
        {"merge": "logits", "scales": (0.75, 1.0), "base_size": 40},
        {"merge": "softmax", "window": (24, 24), "stride": (10, 13)},
        {"merge": "exp"},
    ],
)
def test_flip_pairs_swap_the_scores_of_flipped_images(rng, changes):
    model, variables, _ = small_networks(rng)
    image = rng.integers(0, 256, (1, 32, 40, 3), dtype=np.uint8)
    once = Segmenter(model, variables, Protocol.whole().replace(**changes), CLASSES)
    both = Protocol.whole().replace(**changes, flip=True, flip_pairs=PAIRS)
    scores = Segmenter(model, variables, both, CLASSES).scores(image)
    upright, mirrored = once.scores(image), once.scores(image[:, :, ::-1])[:, :, ::-1][..., SWAPPED]
    expected = upright * mirrored if changes["merge"] == "exp" else (upright + mirrored) / 2
    np.testing.assert_allclose(scores, expected, rtol=2e-4, atol=2e-5)


def test_flip_pairs_of_a_recipe():
    dataset = {"name": "folder", "flip_pairs": PAIRS}
    options = {"protocol": "authors", "window": None}
    protocol = protocol_of({"dataset": dataset, "evaluation": options})
    assert protocol.flip
    assert protocol.for_network(True, classes=CLASSES).mirrored == tuple(SWAPPED)
    assert not protocol_of({"dataset": {**dataset, "flip": False}, "evaluation": options}).flip
    assert protocol_of({"dataset": dataset, "evaluation": {"protocol": "whole"}}) == Protocol.whole()
    with refused():
        protocol.for_network(True, classes=Classes.named(["a", "b"]))


def test_flip_pairs_need_the_names_of_classes(rng):
    model, variables, _ = small_networks(rng)
    segmenter = Segmenter(model, variables, Protocol.whole().replace(flip=True, flip_pairs=PAIRS))
    with refused(what="flip_pairs"):
        segmenter(rng.integers(0, 256, (1, 16, 16, 3), dtype=np.uint8))
