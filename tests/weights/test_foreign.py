"""Checkpoints whose head, preprocessing or names differ from the usual: read right, or refused by name."""

import json
import zipfile

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from danet_jax.classes import Classes
from danet_jax.inference.protocol import Protocol
from danet_jax.inference.segmenter import load_segmenter
from danet_jax.models.danet import DANet
from danet_jax.ops.normalize import normalize
from danet_jax.weights.checkpoint import load_checkpoint
from danet_jax.weights.export_files import export_safetensors, export_torch
from danet_jax.weights.initialize import initialize_from
from tests.reference import torch_danet
from tests.reference.refusal import refused

SIZE = 40, 56


def network(rng, num_classes=3, **options):
    options = {"backbone": "resnet18", "layout": "mmseg", "align_corners": False, **options}
    return torch_danet.randomise(torch_danet.DANet(num_classes, **options), rng)


def logits_of(model, images):
    with torch.no_grad():
        fusion = model(torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))))[0]
    return fusion.numpy().transpose(0, 2, 3, 1)


def saved(folder, content):
    torch.save(content, folder / "file.pth")
    return folder / "file.pth"


def same_variables(one, other):
    import jax

    jax.tree.map(np.testing.assert_array_equal, one.variables, other.variables)


@pytest.mark.parametrize(("said", "threshold"), [("threshold=0.7", 0.7), ("channels=512", 0.3)])
def test_one_sigmoid_channel_of_mmsegmentation_is_read_as_two_classes(rng, tmp_path, said, threshold):
    model = network(rng, 1)
    config = f"decode_head=dict(num_classes=2, out_channels=1, {said}, align_corners=False)"
    checkpoint = load_checkpoint(
        saved(tmp_path, {"state_dict": model.state_dict(), "meta": {"cfg": config}}), multi_grid=None
    )
    images = rng.normal(size=(1, *SIZE, 3)).astype(np.float32)
    probability = 1 / (1 + np.exp(-logits_of(model, images)[..., 0].astype(np.float64)))
    found = np.asarray(checkpoint.model.apply(checkpoint.variables, images).fusion)
    assert found.shape[-1] == 2
    sure = np.abs(probability - threshold) > 1e-3
    assert sure.mean() > 0.5
    np.testing.assert_array_equal(found.argmax(-1)[sure], (probability > threshold)[sure])
    assert f"sigmoid channel read as two classes, the second above {threshold}" in checkpoint.description


def test_a_single_channel_that_nothing_explains_is_refused(rng, tmp_path):
    path = saved(tmp_path, {"state_dict": network(rng, 1).state_dict()})
    with refused(path) as caught:
        load_checkpoint(path)
    assert "decode_head.conv_seg" in str(caught.value)


@pytest.mark.parametrize("order", ["to_rgb", "bgr_to_rgb"])
def test_caffe_style_preprocessing_is_taken_from_the_config(rng, tmp_path, order):
    model = network(rng)
    config = f"data_preprocessor = dict(\n  mean=[103.53, 116.28, 123.675],\n  std=[1.0, 1.0, 1.0],\n  {order}=False)"
    hub = {"runtime_info": {"cfg": config}} if order == "bgr_to_rgb" else {}
    meta = {} if hub else {"config": config}
    path = saved(tmp_path, {"state_dict": model.state_dict(), "meta": meta, "message_hub": hub})
    checkpoint = load_checkpoint(path, align_corners=False)
    images = rng.integers(0, 256, (1, *SIZE, 3), np.uint8)
    blue_first = images[..., ::-1].astype(np.float32) - np.float32([103.53, 116.28, 123.675])
    expected = logits_of(model, blue_first)
    inputs = normalize(images, checkpoint.mean, checkpoint.std)
    found = np.asarray(checkpoint.model.apply(checkpoint.variables, inputs).fusion)
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())
    assert "trained on BGR" in checkpoint.description
    assert "normalised by mean 0.485, 0.456, 0.406, std 0.003922" in checkpoint.description


def test_a_config_that_says_two_normalisations_is_refused(rng, tmp_path):
    config = "a=dict(mean=[1., 2., 3.])\nb=dict(mean=[4., 5., 6.])"
    path = saved(tmp_path, {"state_dict": network(rng).state_dict(), "meta": {"cfg": config}})
    with refused(path):
        load_checkpoint(path)


def test_wrappers_prefixes_in_any_order_and_averaged_copies_beside(rng, tmp_path):
    state = network(rng).state_dict()
    plain = load_checkpoint(saved(tmp_path, {"state_dict": state}))
    other = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    for prefix in ("_orig_mod.module.", "module._orig_mod.", "model.", "net.module.", "model.network."):
        wrapped = {f"{prefix}{name}": tensor for name, tensor in state.items()}
        same_variables(load_checkpoint(saved(tmp_path, wrapped)), plain)
    inner = {name.replace("backbone.", "backbone._orig_mod."): tensor for name, tensor in state.items()}
    same_variables(load_checkpoint(saved(tmp_path, inner)), plain)
    beside = {
        "lightning": {
            **{f"model.{k}": v for k, v in state.items()},
            **{f"model_ema.module.{k}": v for k, v in other.items()},
            "criterion.weight": torch.ones(3),
        },
        "mmcv": {**state, **{f"ema_{k.replace('.', '_')}": v for k, v in other.items()}},
        "timm": {"state_dict": state, "state_dict_ema": other},
    }
    for content in beside.values():
        checkpoint = load_checkpoint(saved(tmp_path, content))
        same_variables(checkpoint, plain)
        assert "left out, beside the network: " in checkpoint.description
        assert "ema" in checkpoint.description
    two = {f"{root}.{k}": v for root in ("student", "teacher") for k, v in state.items()}
    with refused(tmp_path / "file.pth", ["student.", "teacher."]):
        load_checkpoint(saved(tmp_path, two))


def test_safetensors_in_several_files(rng, tmp_path):
    state = {name: tensor.numpy() for name, tensor in network(rng).state_dict().items()}
    save_file(state, tmp_path / "whole.safetensors")
    names = sorted(state)
    places = {}
    for number in (1, 2):
        file = f"model-0000{number}-of-00002.safetensors"
        part = names[number - 1 :: 2]
        save_file({name: state[name] for name in part}, tmp_path / file)
        places |= dict.fromkeys(part, file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    same_variables(load_checkpoint(index), load_checkpoint(tmp_path / "whole.safetensors"))
    with refused(tmp_path / "model-00001-of-00002.safetensors"):
        load_checkpoint(tmp_path / "model-00001-of-00002.safetensors")
    only = tmp_path / "model-00001-of-00001.safetensors"
    save_file(state, only)
    same_variables(load_checkpoint(only), load_checkpoint(tmp_path / "whole.safetensors"))
    for wrong in (
        {"weight_map": {"a": "../other"}},
        {"weight_map": []},
        [],
        {"weight_map": {**places, "x": places[names[0]]}},
    ):
        index.write_text(json.dumps(wrong))
        with refused(index):
            load_checkpoint(index)


def test_weights_that_are_no_numbers_are_refused(rng, tmp_path):
    state = network(rng).state_dict()
    state["decode_head.pam_out_conv.conv.weight"][0, 0, 1, 1] = float(rng.choice([np.nan, np.inf]))
    with refused(tmp_path / "file.pth") as caught:
        load_checkpoint(saved(tmp_path, {"state_dict": state}))
    assert "params/head/position_out/conv/kernel" in str(caught.value)


def test_every_flipped_bit_of_an_exported_file_is_found(rng, tmp_path):
    loaded = load_checkpoint(saved(tmp_path, {"state_dict": network(rng).state_dict()}))
    loaded.__dict__["classes"] = Classes.named(["road", "sky", "tree"])
    export_safetensors(loaded, tmp_path / "model.safetensors")
    export_torch(loaded, tmp_path / "model.pth")
    header = int.from_bytes((tmp_path / "model.safetensors").read_bytes()[:8], "little")
    with zipfile.ZipFile(
        tmp_path / "model.pth"
    ) as file:  # between its members lies padding that is never read
        largest = max(file.infolist(), key=lambda member: member.file_size)
    start = largest.header_offset + 4096
    for name, places in (
        (
            "model.safetensors",
            [*rng.integers(8 + header // 2, 8 + header, 6), *rng.integers(8 + header, 10**7, 6)],
        ),
        ("model.pth", rng.integers(start, start + largest.file_size - 8192, 6)),
    ):
        whole = (tmp_path / name).read_bytes()
        for place in places:
            damaged = bytearray(whole)
            damaged[int(place)] ^= 1 << int(rng.integers(8))
            (tmp_path / "damaged").write_bytes(damaged)
            with refused(tmp_path / "damaged"):
                load_checkpoint(tmp_path / "damaged")
    assert len(load_file(tmp_path / "model.safetensors")) > 100


def test_options_that_change_what_the_weights_compute_are_said_at_the_start(rng, tmp_path):
    checkpoint = load_checkpoint(
        saved(tmp_path, {"state_dict": network(rng).state_dict()}), multi_grid=(4, 8), align_corners=True
    )
    model = DANet(3, "resnet18", output_stride=16)
    _, report = initialize_from(checkpoint, model.clone(align_corners=True), checkpoint.variables)
    text = "\n".join(report)
    assert "multi_grid=(4, 8), this one None" in text
    assert "--config.model.output_stride=8 takes it over" in text
    assert "align_corners" not in text
    _, report = initialize_from(checkpoint, checkpoint.network, checkpoint.variables)
    assert len(report) == 1


def test_what_predicts_normalises_as_the_checkpoint_says_unless_told_otherwise(rng, tmp_path):
    model = network(rng)
    config = "data_preprocessor = dict(mean=[10., 20., 30.], std=[40., 50., 60.], bgr_to_rgb=True, align_corners=False)"
    path = saved(tmp_path, {"state_dict": model.state_dict(), "meta": {"cfg": config}})
    images = rng.integers(0, 256, (1, *SIZE, 3), np.uint8)
    expected = logits_of(
        model, (images.astype(np.float32) - np.float32([10, 20, 30])) / np.float32([40, 50, 60])
    )
    segment = load_segmenter(path, Protocol.whole().replace(merge="logits"))
    np.testing.assert_allclose(segment.scores(images), expected, atol=1e-3 * np.abs(expected).max())
    assert segment.protocol.std == pytest.approx((40 / 255, 50 / 255, 60 / 255))
    ours = load_segmenter(path, Protocol.whole().replace(std=(0.5, 0.5, 0.5)))
    assert ours.protocol.std == (0.5, 0.5, 0.5)
    assert ours.protocol.mean == pytest.approx((10 / 255, 20 / 255, 30 / 255))
