"""State dicts in every layout that people have, against an independent PyTorch network of each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict

from danet_jax.errors import InputError
from danet_jax.models.danet import DANet
from danet_jax.models.resnet import ResNet
from danet_jax.weights.convert import convert, to_state_dict
from danet_jax.weights.names import Recognised, tensors
from tests.reference import torch_danet, torch_resnet

SIZE = 35, 51  # odd, so that paddings and strides show

AUTHORS = {"layout": "authors", "imagenet_classifier": True}
MMSEG = {"layout": "mmseg", "auxiliary": True}
VARIANTS = {
    "authors R18": {**AUTHORS, "backbone": "resnet18"},
    "authors R34, position only": {**AUTHORS, "backbone": "resnet34", "channel_attention": False},
    "authors R18, channel only, stride 16": {
        **AUTHORS,
        "backbone": "resnet18",
        "position_attention": False,
        "output_stride": 16,
    },
    "authors R18, FCN, stride 32": {
        **AUTHORS,
        "backbone": "resnet18",
        "position_attention": False,
        "channel_attention": False,
        "output_stride": 32,
    },
    "authors R18 with Encoding's stem and an FCN head on layer3": {
        **AUTHORS,
        "backbone": "resnet18",
        "stem": "v1s",
        "auxiliary": True,
    },
    "authors R18, equation 3": {**AUTHORS, "backbone": "resnet18", "channel_energy": "paper"},
    "authors R50": {**AUTHORS, "backbone": "resnet50"},
    "authors R50, multi-grid": {**AUTHORS, "backbone": "resnet50", "multi_grid": (4, 8, 16)},
    "authors R101": {**AUTHORS, "backbone": "resnet101"},
    "authors R101, multi-grid": {**AUTHORS, "backbone": "resnet101", "multi_grid": (4, 8, 16)},
    "mmseg R50, edges aligned": {
        **MMSEG,
        "backbone": "resnet50",
        "stem": "v1c",
        "align_corners": False,
    },
    "mmseg R50, corners aligned": {**MMSEG, "backbone": "resnet50", "stem": "v1c", "align_corners": True},
    "mmseg R18 without the deep stem": {**MMSEG, "backbone": "resnet18", "align_corners": False},
    "mmseg R18, FCN": {
        "layout": "mmseg",
        "backbone": "resnet18",
        "position_attention": False,
        "channel_attention": False,
    },
}


def state_dict_of(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def reference(rng, variant: dict, num_classes: int = 7) -> torch.nn.Module:
    return torch_danet.randomise(torch_danet.DANet(num_classes, **variant), rng)


SLOW = ("authors R50", "authors R101", "authors R101, multi-grid", "mmseg R50, corners aligned")


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(variant, id=name, marks=pytest.mark.slow if name in SLOW else ())
        for name, variant in VARIANTS.items()
    ],
)
def test_logits_equal_those_of_the_network_that_the_weights_come_from(rng, variant):
    network = reference(rng, variant)
    images = rng.normal(size=(2, *SIZE, 3)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    state_dict = state_dict_of(network)

    options, variables, dropped = convert(state_dict)

    torch_only = {"layout", "imagenet_classifier"}
    said = {k: v for k, v in variant.items() if k not in torch_only}
    model = DANet(**{**said, **options}, second_dilation=variant["layout"] != "mmseg")
    logits = model.apply(variables, images)  # operation by operation: quicker than compiling it all
    for name, actual, tensor in zip(logits._fields, logits, expected, strict=True):
        if tensor is None:
            assert actual is None, name
            continue
        wanted = tensor.numpy().transpose(0, 2, 3, 1)
        difference = np.abs(np.asarray(actual) - wanted).max()
        assert difference <= 1e-4 * np.abs(wanted).max(), (name, difference)

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
def test_features_equal_those_of_the_classifier_that_a_backbone_comes_from(rng, stem, layout):
    network = torch_danet.randomise(
        torch_resnet.ResNet("resnet18", stem, 32, layout=layout, imagenet_classifier=True), rng
    )
    images = rng.normal(size=(1, *SIZE, 3)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    state_dict = state_dict_of(network)

    options, variables, dropped = convert(state_dict)

    assert options == {"backbone": "resnet18", "stem": stem}
    backbone = {collection: branch["backbone"] for collection, branch in variables.items()}
    features = ResNet(**options, output_stride=32).apply(backbone, images)
    for actual, tensor in zip(features[:2], expected, strict=True):
        wanted = tensor.numpy().transpose(0, 2, 3, 1)
        assert np.abs(np.asarray(actual) - wanted).max() <= 1e-4 * np.abs(wanted).max()
    assert {"fc.weight", "fc.bias"} < set(dropped)
    if layout == "backbone":
        back = to_state_dict(options, variables, "backbone")
        assert back.keys() == state_dict.keys() - set(dropped)


@pytest.mark.parametrize(
    ("backbone", "stem", "position", "channel"),
    [
        ("resnet18", "v1s", True, False),
        ("resnet34", "v1c", False, False),
        ("resnet50", "v1s", False, True),
        ("resnet101", "v1", True, True),
    ],
)
def test_the_table_of_names_covers_every_variable_of_the_network(backbone, stem, position, channel):
    options = {
        "num_classes": 5,
        "backbone": backbone,
        "stem": stem,
        "position_attention": position,
        "channel_attention": channel,
        "auxiliary": True,
    }
    shapes = jax.eval_shape(
        lambda: DANet(**options).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3), jnp.float32))
    )
    shapes = {collection: shapes[collection] for collection in ("params", "batch_stats")}
    expected = {path: leaf.shape for path, leaf in flatten_dict(shapes).items()}
    for layout, style in (("authors", "encoding"), ("mmseg", "mmseg")):
        listed = list(tensors(Recognised(layout, style, options)))
        assert {tensor.path: tensor.own_shape for tensor in listed} == expected
        assert len({tensor.key for tensor in listed}) == len(listed)


def test_names_that_published_files_have():
    """A few of each layout, written down from the original code, not made by the reference."""
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
        options = {
            "num_classes": 19,
            "backbone": "resnet101",
            "stem": "v1" if layout == "authors" else "v1c",
            "position_attention": True,
            "channel_attention": True,
            "auxiliary": layout == "mmseg",
        }
        table = {t.key: t.shape for t in tensors(Recognised(layout, "mmseg", options))}
        assert named.items() <= table.items()


@pytest.fixture(scope="module")
def small():
    """A state dict of the authors' layout, random; tests copy it before they change it."""
    network = torch_danet.DANet(4, backbone="resnet18", layout="authors")
    return state_dict_of(torch_danet.randomise(network, np.random.default_rng(0)))


def test_a_wrapping_in_data_parallel_is_taken_off(small):
    plain, wrapped = convert(small), convert({f"module.{name}": array for name, array in small.items()})
    assert plain.options == wrapped.options
    jax.tree.map(np.testing.assert_array_equal, plain.variables, wrapped.variables)


def test_half_and_double_precision_become_float32(small):
    for dtype in (np.float16, np.float64):
        other = {
            name: array if name.endswith("tracked") else array.astype(dtype) for name, array in small.items()
        }
        for leaf in jax.tree.leaves(convert(other).variables):
            assert leaf.dtype == np.float32


def test_missing_tensors_are_listed(small):
    for name in ("pretrained.layer2.1.bn2.running_mean", "head.sa.gamma"):
        small = {key: array for key, array in small.items() if key != name}
    with pytest.raises(InputError, match=r"missing: pretrained.layer2.1.bn2.running_mean, head.sa.gamma$"):
        convert(small)


def test_misshaped_tensors_are_listed_with_both_shapes(small):
    changed = {**small, "head.conv7.1.bias": np.zeros(5, np.float32)}
    with pytest.raises(InputError, match=r"wrong shape: head.conv7.1.bias \[5\] \(should be \[4\]\)"):
        convert(changed)
    changed = {**small, "head.sc.gamma": np.zeros(2, np.float32)}
    with pytest.raises(InputError, match=r"wrong shape: head.sc.gamma \[2\]"):
        convert(changed)
    changed = {**small, "head.conv8.1.bias": np.zeros(4, np.int64)}
    with pytest.raises(InputError, match=r"head.conv8.1.bias of type int64"):
        convert(changed)


def test_unknown_tensors_are_listed(small):
    with pytest.raises(InputError, match=r"unknown: head.conv9.weight, pretrained.layer1.0.se.weight"):
        convert(
            {
                **small,
                "pretrained.layer1.0.se.weight": np.zeros(1, np.float32),
                "head.conv9.weight": np.zeros(1, np.float32),
            }
        )


def test_what_is_no_known_network_is_refused(small):
    with pytest.raises(InputError, match="no weights of a DANet or a ResNet"):
        convert({"features.0.weight": np.zeros((3, 3), np.float32)})
    with pytest.raises(InputError, match="there are none"):
        convert({})
    deeper = {**small, "pretrained.layer3.7.conv1.weight": np.zeros((256, 256, 3, 3), np.float32)}
    with pytest.raises(
        InputError, match=r"\(2, 2, 3, 2\) basic blocks does not exist here; there are: resnet18"
    ):
        convert(deeper)
    stem = {name: array for name, array in small.items() if name != "pretrained.conv1.weight"}
    stem["pretrained.conv1.0.weight"] = np.zeros((24, 3, 3, 3), np.float32)
    with pytest.raises(InputError, match=r"a stem of \(24, 0, 0\) channels"):
        convert(stem)


def test_the_authors_first_release_has_only_the_fusion_classifier(small):
    old = {name: array for name, array in small.items() if not name.startswith(("head.conv6", "head.conv7"))}
    old |= {"auxlayer.conv5a.0.weight": np.zeros((128, 256, 3, 3), np.float32)}
    options, variables, dropped = convert(old)
    assert options["num_classes"] == 4
    assert "auxlayer.conv5a.0.weight" in dropped
    for branch in ("position", "channel"):
        for leaf in jax.tree.leaves(variables["params"]["head"][f"{branch}_classifier"]):
            assert not leaf.any()
    # One of the two alone is no release, but a damaged file.
    with pytest.raises(InputError, match=r"missing: head\.conv7\.1\.weight"):
        convert({name: array for name, array in small.items() if not name.startswith("head.conv7")})
