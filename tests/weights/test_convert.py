"""State dicts of every layout against an independent PyTorch network."""

import jax
import numpy as np
import pytest
import torch

from danet_jax.models.danet import DANet
from danet_jax.models.resnet import ResNet
from danet_jax.models.variables import variable_shapes
from danet_jax.weights.convert import convert, to_state_dict
from tests.reference import torch_danet, torch_resnet
from tests.reference.refusal import refused

SIZE = 35, 51  # odd, so that paddings and strides show

R18 = {"layout": "authors", "imagenet_classifier": True, "backbone": "resnet18"}
R50 = {**R18, "backbone": "resnet50"}
FCN = {"position_attention": False, "channel_attention": False}
MMSEG = {"layout": "mmseg", "auxiliary": True, "align_corners": False}
VARIANTS = {
    "authors": R18,
    "authors, position only": {**R18, "channel_attention": False},
    "authors, channel only, stride 16": {**R18, "position_attention": False, "output_stride": 16},
    "authors, FCN, stride 32": {**R18, **FCN, "output_stride": 32},
    "authors with Encoding's stem and an auxiliary head": {**R18, "stem": "v1s", "auxiliary": True},
    "authors, equation 3": {**R18, "channel_energy": "paper"},
    "authors R50, multi-grid": {**R50, "multi_grid": (4, 8, 16)},
    "authors R101": {**R18, "backbone": "resnet101"},
    "mmseg R50": {**MMSEG, "backbone": "resnet50", "stem": "v1c"},
    "mmseg without the deep stem": {**MMSEG, "backbone": "resnet18", "align_corners": True},
    "mmseg, FCN": {**MMSEG, **FCN, "backbone": "resnet18", "auxiliary": False},
}


def state_dict_of(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_logits_equal_those_of_pytorch(rng, variant):
    network = torch_danet.randomise(torch_danet.DANet(7, **variant), rng)
    images = rng.normal(size=(2, *SIZE, 3)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    state_dict = state_dict_of(network)

    converted = convert(state_dict)
    options, variables, dropped = converted.options, converted.variables, converted.dropped

    torch_only = {"layout", "imagenet_classifier"}
    given = {k: v for k, v in variant.items() if k not in torch_only}
    model = DANet(**{**given, **options}, second_dilation=variant["layout"] != "mmseg")
    logits = model.apply(variables, images)  # Without jit, which is faster than compiling the network.
    for name, actual, tensor in zip(logits._fields, logits, expected, strict=True):
        if tensor is None:
            assert actual is None, name
            continue
        reference = tensor.numpy().transpose(0, 2, 3, 1)
        difference = np.abs(np.asarray(actual) - reference).max()
        assert difference <= 1e-4 * np.abs(reference).max(), (name, difference)

    assert all(name.endswith("num_batches_tracked") or ".fc." in name for name in dropped)
    back = to_state_dict(options, variables, variant["layout"])
    assert back.keys() == state_dict.keys() - set(dropped)
    for name, array in back.items():
        assert array.shape == state_dict[name].shape, name
        assert array.flags.c_contiguous
        np.testing.assert_array_equal(array, state_dict[name], err_msg=name)


@pytest.mark.parametrize(
    ("stem", "layout"), [("v1", "backbone"), ("v1s", "backbone"), ("v1c", "mmseg"), ("v1c", "backbone")]
)
def test_features_of_backbones_equal_those_of_pytorch(rng, stem, layout):
    network = torch_danet.randomise(
        torch_resnet.ResNet("resnet18", stem, 32, layout=layout, imagenet_classifier=True), rng
    )
    images = rng.normal(size=(1, *SIZE, 3)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    state_dict = state_dict_of(network)

    converted = convert(state_dict)
    options, variables, dropped = converted.options, converted.variables, converted.dropped

    assert options == {"backbone": "resnet18", "stem": stem}
    backbone = {collection: branch["backbone"] for collection, branch in variables.items()}
    features = ResNet(**options, output_stride=32).apply(backbone, images)
    for actual, tensor in zip(features[:2], expected, strict=True):
        reference = tensor.numpy().transpose(0, 2, 3, 1)
        assert np.abs(np.asarray(actual) - reference).max() <= 1e-4 * np.abs(reference).max()
    assert {"fc.weight", "fc.bias"} < set(dropped)
    if layout == "backbone":
        back = to_state_dict(options, variables, "backbone")
        assert back.keys() == state_dict.keys() - set(dropped)


def test_names_in_published_files(full_depth):
    """Checks names that were copied from the original code and do not come from the reference."""
    shapes = {
        "authors": {
            "pretrained.conv1.weight": (64, 3, 7, 7),
            "pretrained.layer1.0.downsample.1.running_var": (256,),
            "pretrained.layer3.22.conv2.weight": (256, 256, 3, 3),
            "head.conv5a.0.weight": (512, 2048, 3, 3),
            "head.conv5c.1.running_mean": (512,),
            "head.sa.gamma": (1,),
            "head.sa.query_conv.weight": (64, 512, 1, 1),
            "head.sa.key_conv.bias": (64,),
            "head.sa.value_conv.weight": (512, 512, 1, 1),
            "head.sc.gamma": (1,),
            "head.conv51.0.weight": (512, 512, 3, 3),
            "head.conv52.1.weight": (512,),
            "head.conv6.1.weight": (19, 512, 1, 1),
            "head.conv7.1.bias": (19,),
            "head.conv8.1.weight": (19, 512, 1, 1),
        },
        "mmseg": {
            "backbone.stem.0.weight": (32, 3, 3, 3),
            "backbone.stem.4.running_var": (32,),
            "backbone.stem.6.weight": (64, 32, 3, 3),
            "backbone.layer4.0.downsample.0.weight": (2048, 1024, 1, 1),
            "decode_head.conv_seg.weight": (19, 512, 1, 1),
            "decode_head.pam_in_conv.conv.weight": (512, 2048, 3, 3),
            "decode_head.pam.key_project.weight": (64, 512, 1, 1),
            "decode_head.pam.value_project.bias": (512,),
            "decode_head.pam.gamma.scale": (),
            "decode_head.pam_out_conv.bn.running_mean": (512,),
            "decode_head.pam_conv_seg.bias": (19,),
            "decode_head.cam.gamma.scale": (),
            "decode_head.cam_in_conv.bn.weight": (512,),
            "decode_head.cam_out_conv.conv.weight": (512, 512, 3, 3),
            "decode_head.cam_conv_seg.weight": (19, 512, 1, 1),
            "auxiliary_head.convs.0.conv.weight": (256, 1024, 3, 3),
            "auxiliary_head.convs.0.bn.running_var": (256,),
            "auxiliary_head.conv_seg.weight": (19, 256, 1, 1),
        },
    }
    for layout, named in shapes.items():
        stem = "v1" if layout == "authors" else "v1c"
        model = DANet(19, "resnet101", stem, auxiliary=layout == "mmseg")
        zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), variable_shapes(model))
        state_dict = to_state_dict(vars(model), zeros, layout)
        assert named.items() <= {name: array.shape for name, array in state_dict.items()}.items()


@pytest.fixture(scope="module")
def small():
    """A random state dict of the authors' layout; tests copy it before they change it."""
    network = torch_danet.DANet(4, backbone="resnet18", layout="authors")
    return state_dict_of(torch_danet.randomise(network, np.random.default_rng(0)))


def test_half_and_double_precision_become_float32(small):
    for dtype in (np.float16, np.float64):
        other = {
            name: array if name.endswith("tracked") else array.astype(dtype) for name, array in small.items()
        }
        for leaf in jax.tree.leaves(convert(other).variables):
            assert leaf.dtype == np.float32


def test_missing_unknown_and_misshaped_tensors_are_listed(small):
    missing = ["pretrained.layer3.1.bn2.running_mean", "head.sa.gamma"]
    unknown = {"pretrained.layer1.0.se.weight": np.zeros(1), "head.conv9.weight": np.zeros(1)}
    kept = {name: array for name, array in small.items() if name not in missing}
    for changed, problem, names in (
        (kept, "missing", missing),
        ({**small, **unknown}, "unknown", sorted(unknown)),
        ({**small, "head.conv7.1.bias": np.zeros(5, np.float32)}, "wrong shape", ["head.conv7.1.bias"]),
        ({**small, "head.sc.gamma": np.zeros(2, np.float32)}, "wrong shape", ["head.sc.gamma"]),
        ({**small, "head.conv8.1.weight": np.zeros((), np.float32)}, "wrong shape", None),
        ({**small, "head.conv8.1.bias": np.zeros(4, np.int64)}, "wrong shape", ["head.conv8.1.bias"]),
    ):
        with refused() as caught:
            convert(changed)
        assert list(caught.value.value) == [problem]
        reported = [text.split(" ")[0] for text in caught.value.value[problem]]
        assert names is None or sorted(reported) == sorted(names)
        assert all(name in str(caught.value) for name in reported[:8])


def test_unsupported_networks_are_refused(small):
    deeper = {**small, "pretrained.layer3.7.conv1.weight": np.zeros((256, 256, 3, 3), np.float32)}
    stem = {name: array for name, array in small.items() if name != "pretrained.conv1.weight"}
    stem["pretrained.conv1.0.weight"] = np.zeros((24, 3, 3, 3), np.float32)
    for state_dict, value in (
        ({"features.0.weight": np.zeros((3, 3), np.float32)}, ["features.0.weight"]),
        ({}, []),
        (deeper, (1, 1, 3, 2)),
        (stem, (24, 0, 0)),
    ):
        with refused(value=value):
            convert(state_dict)


def test_the_authors_first_release_has_only_the_fusion_classifier(small):
    old = {name: array for name, array in small.items() if not name.startswith(("head.conv6", "head.conv7"))}
    old |= {"auxlayer.conv5a.0.weight": np.zeros((128, 256, 3, 3), np.float32)}
    converted = convert(old)
    assert converted.fusion_only
    assert converted.options["num_classes"] == 4
    assert "auxlayer.conv5a.0.weight" in converted.dropped
    for branch in ("position", "channel"):
        classifier = converted.variables["params"]["head"][f"{branch}_classifier"]
        assert (classifier["kernel"].shape, classifier["bias"].shape) == ((1, 1, 128, 4), (4,))
        assert not any(leaf.any() for leaf in classifier.values())
    # A file with only one of the two is damaged.
    with refused(value={"missing": ["head.conv7.1.bias", "head.conv7.1.weight"]}):
        convert({name: array for name, array in small.items() if not name.startswith("head.conv7")})
