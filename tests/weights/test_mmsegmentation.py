"""mmsegmentation's backbones whose tensors are shaped as here, but which compute something else: by their config."""

import numpy as np
import pytest
import torch

from danet_jax.weights.checkpoint import load_checkpoint
from tests.reference import torch_danet
from tests.reference.refusal import refused

STANDARD = "style='pytorch', dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1), contract_dilation=True"


def saved(folder, network, backbone):
    text = f"model = dict(\n  backbone=dict(type='ResNetV1c',\n  {backbone}),\n  decode_head=dict(align_corners=False))"
    torch.save({"meta": {"cfg": text}, "state_dict": network.state_dict()}, folder / "file.pth")
    return folder / "file.pth"


@pytest.fixture(scope="module")
def network():
    return torch_danet.DANet(3, backbone="resnet18", layout="mmseg", align_corners=False)


def test_stages_given_as_lists_are_those_of_the_network(rng, tmp_path):
    options = {"layout": "mmseg", "align_corners": False, "output_stride": 16, "multi_grid": (1, 2)}
    network = torch_danet.randomise(torch_danet.DANet(3, backbone="resnet18", **options), rng)
    config = "dilations=[1, 1, 1, 2], strides=[1, 2, 2, 1], contract_dilation=True, multi_grid=[1, 2]"
    checkpoint = load_checkpoint(saved(tmp_path, network, config))
    assert (checkpoint.model.output_stride, checkpoint.model.multi_grid) == (16, (1, 2))
    images = rng.normal(size=(1, 33, 47, 3)).astype(np.float32)
    with torch.no_grad():
        expected = (
            network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))[0].numpy().transpose(0, 2, 3, 1)
        )
    found = np.asarray(checkpoint.model.apply(checkpoint.variables, images).fusion)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_the_published_config_is_read(tmp_path, network):
    checkpoint = load_checkpoint(
        saved(tmp_path, network, f"norm_cfg=dict(type='SyncBN', eps=1e-05), {STANDARD}")
    )
    assert (checkpoint.model.output_stride, checkpoint.model.multi_grid) == (8, None)


@pytest.mark.parametrize(
    ("standard", "other", "said"),
    [
        (", contract_dilation=True", "", "contract_dilation=False"),
        ("=True", "=False, multi_grid=(4, 8, 16)", "contract_dilation=False"),  # layer3 is not halved either
        ("(1, 1, 2, 4)", "(1, 1, 1, 1)", "dilations=(1, 1, 1, 1)"),
        ("(1, 1, 2, 4)", "[1, 1, 1, 2]", "dilations=(1, 1, 1, 2)"),
        ("style=", "norm_cfg=dict(type='BN', eps=0.001), style=", "eps=0.001"),
    ],
)
def test_what_would_compute_something_else_is_refused(tmp_path, network, standard, other, said):
    assert standard in STANDARD
    with refused(tmp_path / "file.pth") as caught:
        load_checkpoint(saved(tmp_path, network, STANDARD.replace(standard, other)))
    assert said in str(caught.value)


def test_a_multi_grid_needs_no_contraction_where_nothing_else_is_dilated(tmp_path, network):
    config = "dilations=(1, 1, 1, 2), strides=(1, 2, 2, 1), contract_dilation=False, multi_grid=(1, 2, 4)"
    assert load_checkpoint(saved(tmp_path, network, config)).model.multi_grid == (1, 2, 4)


def test_strides_on_1x1_convolutions_are_refused_and_mean_nothing_to_basic_blocks(tmp_path, network):
    caffe = STANDARD.replace("pytorch", "caffe")
    assert load_checkpoint(saved(tmp_path, network, caffe)).model.output_stride == 8
    with torch.device("meta"):
        bottlenecks = torch_danet.DANet(3, backbone="resnet50", layout="mmseg", align_corners=False)
    with refused(tmp_path / "file.pth"):
        load_checkpoint(saved(tmp_path, bottlenecks.to_empty(device="cpu"), caffe))
