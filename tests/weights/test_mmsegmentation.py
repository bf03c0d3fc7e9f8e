"""The configs in mmsegmentation's checkpoints: read correctly, or refused if not supported."""

import numpy as np
import pytest
import torch

from danet_jax.inference.protocol import Protocol
from danet_jax.inference.segmenter import load_segmenter
from danet_jax.ops.normalize import normalize
from danet_jax.weights.checkpoint import load_checkpoint
from tests.reference import torch_danet
from tests.reference.refusal import refused

SIZE = 40, 56
STANDARD = "style='pytorch', dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1), contract_dilation=True"
PALETTE = [[128, 64, 128], [0, 0, 142], [70, 130, 180]]


def make_network(num_classes=3, **options):
    options = {"backbone": "resnet18", "layout": "mmseg", "align_corners": False, **options}
    model = torch_danet.DANet(num_classes, **options)
    return torch_danet.randomise(model, np.random.default_rng(2))


@pytest.fixture(scope="module")
def network():
    return make_network()


@pytest.fixture
def saved(tmp_path, network):
    """Saves a network with the text of its config, or other metadata, and returns the path."""

    def save(config="", network=network, **content):
        content = content or {"meta": {"cfg": config}}
        torch.save({"state_dict": network.state_dict(), **content}, tmp_path / "file.pth")
        return tmp_path / "file.pth"

    return save


def backbone(text):
    return f"model = dict(\n  backbone=dict(type='ResNetV1c',\n  {text}),\n  decode_head=dict(align_corners=False))"


def logits_of(model, images):
    with torch.no_grad():
        fusion = model(torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))))[0]
    return fusion.numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize(("key", "value"), [("config", True), ("cfg", False)])
def test_align_corners_is_read_from_the_config(saved, key, value):
    text = f"decode_head=dict(type='DAHead', align_corners={value}),\n  auxiliary_head=dict(align_corners={value})"
    checkpoint = load_checkpoint(saved(meta={key: text}))
    assert (checkpoint.model.align_corners, checkpoint.model.multi_grid) == (value, None)
    assert checkpoint.model.second_dilation is False
    assert "align_corners" not in checkpoint.description


@pytest.mark.parametrize(
    "meta", [{}, "text", {"config": "align_corners=True, align_corners=False"}, {"config": 3}]
)
def test_align_corners_is_assumed_without_a_config(saved, meta):
    checkpoint = load_checkpoint(saved(meta=meta))
    assert checkpoint.model.align_corners is False
    assert "assumed: align_corners=False" in checkpoint.description


@pytest.mark.parametrize(
    ("text", "output_stride", "multi_grid"),
    [
        (f"norm_cfg=dict(type='SyncBN', eps=1e-05), {STANDARD}", 8, None),
        ("dilations=(1, 1, 1, 2),\n  strides=(1, 2, 2, 1),\n  contract_dilation=True", 16, None),
        ("strides=(1, 2, 1, 1), multi_grid=(1, 2, 4)", 8, (1, 2, 4)),
        # A multi-grid needs no contraction where nothing else is dilated.
        (
            "dilations=(1, 1, 1, 2), strides=(1, 2, 2, 1), contract_dilation=False, multi_grid=(1, 2, 4)",
            16,
            (1, 2, 4),
        ),
        (STANDARD.replace("pytorch", "caffe"), 8, None),  # makes no difference to basic blocks
    ],
)
def test_strides_and_multi_grid_are_read_from_the_config(saved, text, output_stride, multi_grid):
    model = load_checkpoint(saved(backbone(text))).model
    assert (model.output_stride, model.multi_grid) == (output_stride, multi_grid)


def test_strides_and_dilations_may_be_lists(rng, saved):
    network = make_network(output_stride=16, multi_grid=(1, 2))
    config = "dilations=[1, 1, 1, 2], strides=[1, 2, 2, 1], contract_dilation=True, multi_grid=[1, 2]"
    checkpoint = load_checkpoint(saved(backbone(config), network))
    assert (checkpoint.model.output_stride, checkpoint.model.multi_grid) == (16, (1, 2))
    images = rng.normal(size=(1, 33, 47, 3)).astype(np.float32)
    expected = logits_of(network, images)
    found = np.asarray(checkpoint.model.apply(checkpoint.variables, images).fusion)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("standard", "other", "named"),
    [
        ("(1, 2, 1, 1)", "(2, 2, 1, 1)", "strides=(2, 2, 1, 1)"),
        ("=True", "=False", "contract_dilation=False"),
        (", contract_dilation=True", "", "contract_dilation=False"),
        ("=True", "=False, multi_grid=(4, 8, 16)", "contract_dilation=False"),  # layer3 is not halved either
        ("(1, 1, 2, 4)", "(1, 1, 1, 1)", "dilations=(1, 1, 1, 1)"),
        ("(1, 1, 2, 4)", "[1, 1, 1, 2]", "dilations=(1, 1, 1, 2)"),
        ("style=", "norm_cfg=dict(type='BN', eps=0.001), style=", "eps=0.001"),
        ("style=", "mean=[1., 2., 3.], mean=[4., 5., 6.], style=", "mean"),
    ],
)
def test_unsupported_configs_are_refused(saved, standard, other, named):
    assert standard in STANDARD
    path = saved(backbone(STANDARD.replace(standard, other)))
    with refused(path) as caught:
        load_checkpoint(path)
    assert named in str(caught.value)


def test_strides_on_1x1_convolutions_are_refused(saved):
    bottlenecks = torch_danet.DANet(3, backbone="resnet50", layout="mmseg", align_corners=False)
    path = saved(backbone(STANDARD.replace("pytorch", "caffe")), bottlenecks)
    with refused(path):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("meta", "colour"),
    [
        ({"CLASSES": ("road", "car", "sky"), "PALETTE": PALETTE}, (0, 0, 142)),
        ({"dataset_meta": {"classes": ["road", "car", "sky"], "palette": PALETTE}}, (0, 0, 142)),
        ({"CLASSES": ["road", "car", "sky"]}, None),
    ],
    ids=["0.x", "1.x", "no palette"],
)
def test_classes_are_read(saved, meta, colour):
    classes = load_checkpoint(saved(meta=meta)).classes
    assert classes.names == ("road", "car", "sky")
    assert colour is None or classes.colours[1] == colour


@pytest.mark.parametrize(
    "meta",
    [
        {"CLASSES": ["road", "car"]},  # another number
        {"CLASSES": ["road", "road", "sky"]},
        {"CLASSES": ["a", "b", "c"], "PALETTE": [[1, 2]]},
        {"CLASSES": 3},
        {},
    ],
)
def test_invalid_classes_are_ignored(saved, meta):
    assert load_checkpoint(saved(meta=meta)).classes is None


@pytest.mark.parametrize(("text", "threshold"), [("threshold=0.7", 0.7), ("channels=512", 0.3)])
def test_one_sigmoid_channel_is_read_as_two_classes(rng, saved, text, threshold):
    network = make_network(1)
    config = f"decode_head=dict(num_classes=2, out_channels=1, {text}, align_corners=False)"
    checkpoint = load_checkpoint(saved(config, network), multi_grid=None)
    images = rng.normal(size=(1, *SIZE, 3)).astype(np.float32)
    probability = 1 / (1 + np.exp(-logits_of(network, images)[..., 0].astype(np.float64)))
    found = np.asarray(checkpoint.model.apply(checkpoint.variables, images).fusion)
    assert found.shape[-1] == 2
    clear = np.abs(probability - threshold) > 1e-3
    assert clear.mean() > 0.5
    np.testing.assert_array_equal(found.argmax(-1)[clear], (probability > threshold)[clear])
    assert f"the second above {threshold}" in checkpoint.description


def test_a_single_channel_without_a_config_is_refused(saved):
    path = saved(network=make_network(1))
    with refused(path) as caught:
        load_checkpoint(path)
    assert "decode_head.conv_seg" in str(caught.value)


@pytest.mark.parametrize("order", ["to_rgb", "bgr_to_rgb"])
def test_caffe_style_preprocessing_is_read_from_the_config(rng, network, saved, order):
    config = f"data_preprocessor = dict(\n  mean=[103.53, 116.28, 123.675],\n  std=[1.0, 1.0, 1.0],\n  {order}=False)"
    in_hub = {"message_hub": {"runtime_info": {"cfg": config}}}
    path = saved(**(in_hub if order == "bgr_to_rgb" else {"meta": {"config": config}}))
    checkpoint = load_checkpoint(path, align_corners=False)
    images = rng.integers(0, 256, (1, *SIZE, 3), np.uint8)
    blue_first = images[..., ::-1].astype(np.float32) - np.float32([103.53, 116.28, 123.675])
    expected = logits_of(network, blue_first)
    inputs = normalize(images, checkpoint.mean, checkpoint.std)
    found = np.asarray(checkpoint.model.apply(checkpoint.variables, inputs).fusion)
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())
    assert "trained on BGR" in checkpoint.description
    assert "mean 0.485, 0.456, 0.406, std 0.003922" in checkpoint.description


def test_a_segmenter_uses_the_normalisation_of_the_checkpoint_or_of_its_protocol(rng, network, saved):
    config = "data_preprocessor = dict(mean=[10., 20., 30.], std=[40., 50., 60.], bgr_to_rgb=True, align_corners=False)"
    path = saved(config)
    images = rng.integers(0, 256, (1, *SIZE, 3), np.uint8)
    inputs = (images.astype(np.float32) - np.float32([10, 20, 30])) / np.float32([40, 50, 60])
    expected = logits_of(network, inputs)
    segment = load_segmenter(path, Protocol.whole().replace(merge="logits"))
    np.testing.assert_allclose(segment.scores(images), expected, atol=1e-3 * np.abs(expected).max())
    assert segment.protocol.std == pytest.approx((40 / 255, 50 / 255, 60 / 255))
    segment = load_segmenter(path, Protocol.whole().replace(std=(0.5, 0.5, 0.5)))
    assert segment.protocol.std == (0.5, 0.5, 0.5)
    assert segment.protocol.mean == pytest.approx((10 / 255, 20 / 255, 30 / 255))
