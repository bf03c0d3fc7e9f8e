"""`load_checkpoint` on files, names and addresses of every kind."""

import json
import pathlib
import pickle

import fsspec
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from danet_jax.inference.segmenter import load_segmenter
from danet_jax.models.danet import DANet
from danet_jax.models.resnet import ResNet
from danet_jax.weights import zoo
from danet_jax.weights.checkpoint import load_checkpoint
from tests.reference import torch_danet, torch_resnet
from tests.reference.file_server import serving
from tests.reference.refusal import refused


@pytest.fixture(scope="module")
def authors():
    network = torch_danet.DANet(3, backbone="resnet18", imagenet_classifier=True)
    return torch_danet.randomise(network, np.random.default_rng(1)).state_dict()


@pytest.fixture(scope="module")
def mmseg():
    network = torch_danet.DANet(3, "resnet18", "v1c", auxiliary=True, layout="mmseg")
    return torch_danet.randomise(network, np.random.default_rng(2)).state_dict()


@pytest.fixture(scope="module")
def classifier():
    network = torch_resnet.ResNet("resnet18", imagenet_classifier=True)
    return torch_danet.randomise(network, np.random.default_rng(3)).state_dict()


@pytest.fixture
def saved(tmp_path):
    """Saves a file with torch and returns its path."""

    def save(content):
        torch.save(content, tmp_path / "file")
        return tmp_path / "file"

    return save


def assert_equal_variables(one, other):
    jax.tree.map(np.testing.assert_array_equal, one.variables, other.variables)


def test_a_file_of_the_authors(saved, authors):
    content = {"epoch": 239, "state_dict": authors, "optimizer": {}, "best_pred": 0.8}
    checkpoint = load_checkpoint(saved(content))
    model = checkpoint.model
    assert isinstance(model, DANet)
    assert (model.backbone, model.stem, model.num_classes, model.auxiliary) == ("resnet18", "v1", 3, False)
    assert (model.align_corners, model.multi_grid) == (True, (4, 8, 16))
    assert "assumed: align_corners=True, multi_grid=(4, 8, 16)" in checkpoint.description
    assert checkpoint.classes is None
    assert not checkpoint.is_backbone
    assert {"pretrained.fc.weight", "pretrained.bn1.num_batches_tracked"} < set(checkpoint.dropped)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(checkpoint.variables))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(checkpoint.variables)} == {"float32"}
    np.testing.assert_array_equal(
        checkpoint.variables["params"]["backbone"]["stem"]["conv1"]["kernel"],
        authors["pretrained.conv1.weight"].numpy().transpose(2, 3, 1, 0),
    )


def test_options_that_tensors_do_not_determine_can_be_overridden(saved, authors):
    path = saved(authors)
    options = {"multi_grid": None, "align_corners": False, "channel_energy": "paper", "remat": "full"}
    checkpoint = load_checkpoint(str(path), dtype="bfloat16", num_classes=3, **options)
    assert {name: getattr(checkpoint.model, name) for name in options} == options
    assert checkpoint.model.dtype == jnp.bfloat16
    assert "assumed" not in checkpoint.description
    assert load_checkpoint(path, multi_grid=[1, 2]).model.multi_grid == (1, 2)
    for name, value in (
        ("num_classes", 4),
        ("dtype", "float8"),
        ("multi_grid", 4),
        ("align_corners", "no"),
        ("output_stride", 7),
        ("multigrid", None),
        ("channel_energy", "other"),
    ):
        with refused(path) as caught:
            load_checkpoint(path, **{name: value})
        assert f"{name}={value!r}" in str(caught.value)


def test_a_backbone(saved, classifier):
    path = saved(classifier)
    checkpoint = load_checkpoint(path)
    assert checkpoint.is_backbone
    assert isinstance(checkpoint.model, ResNet)
    assert checkpoint.model.output_stride == 32
    features = jax.eval_shape(checkpoint.model.apply, checkpoint.variables, jnp.zeros((1, 32, 32, 3)))
    assert features.layer4.shape == (1, 1, 1, 512)
    assert load_checkpoint(path, output_stride=8).model.output_stride == 8
    with refused(path):
        load_checkpoint(path, align_corners=True)
    with refused(path):
        checkpoint.refuse_backbone(path)


def test_real_imagenet_backbones(imagenet_weights, full_depth):
    for backbone in ("resnet18", "resnet34"):
        path = imagenet_weights / f"{backbone}_imagenet1k_v1.safetensors"
        checkpoint = load_checkpoint(path, output_stride=8)
        assert checkpoint.model.backbone == backbone
        for leaf in jax.tree.leaves(checkpoint.variables):
            assert np.isfinite(leaf).all()
        for path, leaf in jax.tree_util.tree_flatten_with_path(checkpoint.variables["batch_stats"])[0]:
            if path[-1].key == "var":
                assert np.min(leaf) >= 0
                assert 1e-3 < np.median(leaf) < 10


def test_prefixes_of_wrappers_are_removed_and_averaged_copies_left_out(saved, mmseg):
    plain = load_checkpoint(saved({"state_dict": mmseg}))
    other = {name: torch.zeros_like(tensor) for name, tensor in mmseg.items()}
    for prefix in ("_orig_mod.module.", "module._orig_mod.", "model.", "net.module.", "model.network."):
        wrapped = {f"{prefix}{name}": tensor for name, tensor in mmseg.items()}
        assert_equal_variables(load_checkpoint(saved(wrapped)), plain)
    inner = {name.replace("backbone.", "backbone._orig_mod."): tensor for name, tensor in mmseg.items()}
    assert_equal_variables(load_checkpoint(saved(inner)), plain)
    with_copies = {
        "lightning": {
            **{f"model.{k}": v for k, v in mmseg.items()},
            **{f"model_ema.module.{k}": v for k, v in other.items()},
            "criterion.weight": torch.ones(3),
        },
        "mmcv": {**mmseg, **{f"ema_{k.replace('.', '_')}": v for k, v in other.items()}},
        "timm": {"state_dict": mmseg, "state_dict_ema": other},
    }
    for content in with_copies.values():
        checkpoint = load_checkpoint(saved(content))
        assert_equal_variables(checkpoint, plain)
        assert "left out: " in checkpoint.description
        assert "ema" in checkpoint.description
    two = {f"{root}.{k}": v for root in ("student", "teacher") for k, v in mmseg.items()}
    path = saved(two)
    with refused(path, ["student.", "teacher."]):
        load_checkpoint(path)


def test_safetensors_in_one_or_several_files(tmp_path, mmseg):
    state = {name: tensor.numpy() for name, tensor in mmseg.items()}
    save_file(state, tmp_path / "all.safetensors")
    expected = load_checkpoint(tmp_path / "all.safetensors")
    assert expected.description.startswith("mmsegmentation: ")
    only = tmp_path / "model-00001-of-00001.safetensors"
    (tmp_path / "all.safetensors").rename(only)
    assert_equal_variables(load_checkpoint(only), expected)
    names, file_of = sorted(state), {}
    for number in (1, 2):
        file = f"model-0000{number}-of-00002.safetensors"
        part = names[number - 1 :: 2]
        save_file({name: state[name] for name in part}, tmp_path / file)
        file_of |= dict.fromkeys(part, file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": file_of}))
    assert_equal_variables(load_checkpoint(index), expected)
    with refused(tmp_path / "model-00001-of-00002.safetensors"):
        load_checkpoint(tmp_path / "model-00001-of-00002.safetensors")
    for invalid in (
        {"weight_map": {"a": "../other"}},
        {"weight_map": []},
        [],
        {"weight_map": {**file_of, "x": file_of[names[0]]}},
    ):
        index.write_text(json.dumps(invalid))
        with refused(index):
            load_checkpoint(index)


def test_invalid_checkpoints_are_refused(tmp_path, saved, authors):
    path = saved({"state_dict": {k: v for k, v in authors.items() if k != "head.conv8.1.bias"}})
    with refused(path, {"missing": ["head.conv8.1.bias"]}):
        load_checkpoint(path)
    kernel = authors["head.conv5a.0.weight"].clone()
    kernel[0, 0, 1, 1] = float("nan")
    path = saved({**authors, "head.conv5a.0.weight": kernel})
    with refused(path) as caught:
        load_checkpoint(path)
    assert "params/head/position_in/conv/kernel" in str(caught.value)
    names = [tmp_path, tmp_path / "nothing", "best.pth", "/dev/null"]
    for name in (*names, "x" * 5000, f"{tmp_path}/{'x' * 5000}", "no\nname"):
        with refused(name):
            load_checkpoint(name)
    with refused("mmseg/danet_r50_512x1024_40k_cityscapes") as caught:
        load_checkpoint("mmseg/danet_r50_512x1024_40k_cityscapes")
    assert "mmseg/danet_r50-d8" in str(caught.value)
    assert zoo.ZOO[0].name in caught.value.allowed


def test_a_damaged_export(tmp_path):
    arrays = {"params/backbone/stem/conv1/kernel": np.zeros((7, 7, 3, 64), np.float32)}
    model = {"backbone": "resnet18", "multi_grid": []}
    description = {"num_classes": 3, "model": model, "classes": None, "config": {}}
    path = tmp_path / "model.safetensors"
    for metadata in (
        None,
        {"danet_jax": "{}"},
        {"danet_jax": json.dumps(description)},  # arrays are missing
        {"danet_jax": json.dumps({**description, "model": {**model, "backbone": "resnet17"}})},
    ):
        save_file(arrays, path, metadata)
        with refused(path):
            load_checkpoint(path)


def test_the_zoo_is_consistent():
    assert len({entry.name for entry in zoo.ZOO}) == len(zoo.ZOO)
    danets = [entry for entry in zoo.ZOO if entry.name.startswith("mmseg/danet_")]
    assert len(danets) == 16
    for entry in zoo.ZOO:
        assert entry.url.startswith("https://")
        assert len(entry.sha256) == 8
        assert zoo.find(entry.name) is entry
    best = max(danets, key=lambda entry: entry.miou_multi_scale or 0)
    assert (best.name, best.miou) == ("mmseg/danet_r101-d8_769x769_80k_cityscapes", 80.47)
    assert best.options["align_corners"] is True
    assert zoo.find("mmseg/danet_r50-d8_512x1024_40k_cityscapes").options["align_corners"] is False


def test_a_checkpoint_of_the_zoo_is_downloaded_with_its_options(saved, mmseg, monkeypatch):
    path = saved({"meta": {}, "state_dict": mmseg})
    calls = []

    def download(url, target, digest):
        calls.append((url.rsplit("-", 1)[-1], target.name.rsplit("-", 1)[-1], digest))
        return path

    monkeypatch.setattr("danet_jax.weights.checkpoint.download", download)
    checkpoint = load_checkpoint("mmseg/danet_r101-d8_769x769_80k_cityscapes")
    assert calls == [("f3a929e7.pth", "f3a929e7.pth", "sha256:f3a929e7")]
    assert checkpoint.model.align_corners is True
    assert "assumed" not in checkpoint.description


class Touch:
    """A pickle of it creates the file `path` when it is loaded carelessly."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def test_addresses(tmp_path, saved, authors, monkeypatch, capfd):
    monkeypatch.setenv("DANET_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    path = saved({"state_dict": authors})
    expected = load_checkpoint(path, multi_grid=None)
    with fsspec.open("memory://weights/authors.pth", "wb") as file:
        file.write(path.read_bytes())
    with serving(path.read_bytes(), "authors.pth?download=1") as server:
        for address in (server.url, "memory://weights/authors.pth", path.as_uri()):
            checkpoint = load_checkpoint(address, multi_grid=None)
            assert checkpoint.model == expected.model
            assert_equal_variables(checkpoint, expected)
            assert load_segmenter(address).num_classes == 3
        assert server.requests == [None]
        server.content = pickle.dumps(Touch(tmp_path / "trace"), protocol=2)
        server.headers = {"ETag": "hostile"}
        with refused(server.url):
            load_checkpoint(server.url)
        assert not (tmp_path / "trace").exists()
        server.status = 404
        with refused(server.url):
            load_checkpoint(server.url)
    assert "://" not in capfd.readouterr().err


def test_the_digest_of_a_published_file_is_checked(tmp_path, saved, monkeypatch, classifier):
    monkeypatch.setenv("DANET_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    with serving(saved(classifier).read_bytes(), "resnet18-f37072fd.pth") as server:
        entry = zoo.Entry("here/resnet18", server.url, "imagenet")
        monkeypatch.setattr(zoo, "ZOO", (entry,))
        for source in (server.url, "here/resnet18"):
            with refused(allowed="f37072fd"):
                load_checkpoint(source)
