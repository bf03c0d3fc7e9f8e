"""`load_checkpoint` on files of every kind, its defaults, and starting a training from what it gives."""

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

import danet_jax
from danet_jax.inference.segmenter import load_segmenter
from danet_jax.models.danet import DANet
from danet_jax.models.resnet import ResNet
from danet_jax.models.variables import variables_of
from danet_jax.weights import zoo
from danet_jax.weights.checkpoint import load_checkpoint
from danet_jax.weights.initialize import initialize_from, load_pretrained
from tests.reference import torch_danet, torch_resnet
from tests.reference.file_server import serving
from tests.reference.refusal import refused

MMSEG_CONFIG = """
model = dict(
    type='EncoderDecoder',
    backbone=dict(type='ResNetV1c', depth=18),
    decode_head=dict(type='DAHead', align_corners={0}),
    auxiliary_head=dict(type='FCNHead', align_corners={1}))
"""


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


def saved(folder, content):
    torch.save(content, folder / "file")
    return folder / "file"


def test_the_authors_file(tmp_path, authors):
    content = {"epoch": 239, "state_dict": authors, "optimizer": {}, "best_pred": 0.8}
    checkpoint = load_checkpoint(saved(tmp_path, content))
    model = checkpoint.model
    assert isinstance(model, DANet)
    assert (model.backbone, model.stem, model.num_classes, model.auxiliary) == ("resnet18", "v1", 3, False)
    assert (model.align_corners, model.multi_grid) == (True, (4, 8, 16))
    assert (
        "not told by the file, so assumed: align_corners=True, multi_grid=(4, 8, 16)"
        in checkpoint.description
    )
    assert checkpoint.classes is None
    assert not checkpoint.is_backbone
    assert {"pretrained.fc.weight", "pretrained.bn1.num_batches_tracked"} < set(checkpoint.dropped)
    for leaf in jax.tree.leaves(checkpoint.variables):
        assert isinstance(leaf, jax.Array)
        assert leaf.dtype == jnp.float32
    np.testing.assert_array_equal(
        checkpoint.variables["params"]["backbone"]["stem"]["conv1"]["kernel"],
        authors["pretrained.conv1.weight"].numpy().transpose(2, 3, 1, 0),
    )


def test_options_that_tensors_do_not_say_can_be_overridden(tmp_path, authors):
    path = saved(tmp_path, authors)
    checkpoint = load_checkpoint(
        str(path),
        multi_grid=None,
        align_corners=False,
        dtype="bfloat16",
        channel_energy="paper",
        remat="full",
        num_classes=3,
    )
    assert checkpoint.model.multi_grid is None
    assert checkpoint.model.align_corners is False
    assert checkpoint.model.dtype == jnp.bfloat16
    assert checkpoint.model.channel_energy == "paper"
    assert checkpoint.model.remat == "full"
    assert "assumed" not in checkpoint.description
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


@pytest.mark.parametrize(("text", "expected"), [("config", True), ("cfg", False)])
def test_mmsegmentation_says_align_corners_in_its_config(tmp_path, mmseg, text, expected):
    meta = {text: MMSEG_CONFIG.format(expected, expected)}
    checkpoint = load_checkpoint(saved(tmp_path, {"meta": meta, "state_dict": mmseg}))
    assert checkpoint.model.align_corners is expected
    assert checkpoint.model.auxiliary
    assert checkpoint.model.stem == "v1c"
    assert checkpoint.model.multi_grid is None
    assert "align_corners" not in checkpoint.description


def test_mmsegmentation_says_strides_and_multi_grid_in_its_config(tmp_path, mmseg):
    def load(text):
        return load_checkpoint(saved(tmp_path, {"meta": {"cfg": text}, "state_dict": mmseg}))

    text = (
        "backbone=dict(type='ResNetV1c', depth=18,\n  dilations=(1, 1, 1, 2),\n  strides=(1, 2, 2, 1),\n"
        "  contract_dilation=True),"
    )
    assert load(text).model.output_stride == 16
    assert load(text).model.multi_grid is None
    assert load("strides=(1, 2, 1, 1), multi_grid=(1, 2, 4)").model.multi_grid == (1, 2, 4)
    for wrong in ("strides=(2, 2, 1, 1)", "contract_dilation=False"):
        with refused(tmp_path / "file") as caught:
            load(wrong)
        assert wrong in str(caught.value)


def test_mmsegmentation_without_a_word_on_align_corners(tmp_path, mmseg):
    for meta in ({}, "text", {"config": MMSEG_CONFIG.format(True, False)}, {"config": 3}):
        checkpoint = load_checkpoint(saved(tmp_path, {"meta": meta, "state_dict": mmseg}))
        assert checkpoint.model.align_corners is False
        assert "assumed: align_corners=False" in checkpoint.description
    assert checkpoint.model.second_dilation is False


@pytest.mark.parametrize(
    "meta",
    [
        {"CLASSES": ("road", "car", "sky"), "PALETTE": [[128, 64, 128], [0, 0, 142], [70, 130, 180]]},
        {
            "dataset_meta": {
                "classes": ["road", "car", "sky"],
                "palette": [[128, 64, 128], [0, 0, 142], [70, 130, 180]],
            }
        },
    ],
    ids=["0.x", "1.x"],
)
def test_mmsegmentation_tells_classes(tmp_path, mmseg, meta):
    classes = load_checkpoint(saved(tmp_path, {"meta": meta, "state_dict": mmseg})).classes
    assert classes.names == ("road", "car", "sky")
    assert classes.colours[1] == (0, 0, 142)


def test_mmsegmentation_classes_that_cannot_be_used(tmp_path, mmseg):
    for meta in (
        {"CLASSES": ["road", "car"]},  # another number
        {"CLASSES": ["road", "road", "sky"]},
        {"CLASSES": ["a", "b", "c"], "PALETTE": [[1, 2]]},
        {"CLASSES": 3},
        {},
    ):
        assert load_checkpoint(saved(tmp_path, {"meta": meta, "state_dict": mmseg})).classes is None
    named = load_checkpoint(saved(tmp_path, {"meta": {"CLASSES": ["a", "b", "c"]}, "state_dict": mmseg}))
    assert named.classes.names == ("a", "b", "c")


def test_a_backbone_alone(tmp_path, classifier):
    checkpoint = load_checkpoint(saved(tmp_path, classifier))
    assert checkpoint.is_backbone
    assert isinstance(checkpoint.model, ResNet)
    assert checkpoint.model.output_stride == 32
    features = jax.eval_shape(checkpoint.model.apply, checkpoint.variables, jnp.zeros((1, 32, 32, 3)))
    assert features.layer4.shape == (1, 1, 1, 512)
    assert load_checkpoint(tmp_path / "file", output_stride=8).model.output_stride == 8
    with refused(tmp_path / "file"):
        load_checkpoint(tmp_path / "file", align_corners=True)


def test_safetensors_of_any_layout(tmp_path, mmseg):
    arrays = {name: tensor.numpy() for name, tensor in mmseg.items()}
    save_file(arrays, tmp_path / "m.safetensors")
    checkpoint = load_checkpoint(tmp_path / "m.safetensors")
    assert "of mmsegmentation" in checkpoint.description


def test_errors_name_the_file(tmp_path, authors):
    broken = {name: tensor for name, tensor in authors.items() if name != "head.conv8.1.bias"}
    path = saved(tmp_path, {"state_dict": broken})
    with refused(path, {"missing": ["head.conv8.1.bias"]}):
        load_checkpoint(path)
    for wrong in (tmp_path, tmp_path / "nothing", "best.pth", "/dev/null", "mmseg/danet_r50"):
        with refused(wrong):
            load_checkpoint(wrong)
    for wrong in ("x" * 5000, f"{tmp_path}/{'x' * 5000}", "no\nname"):
        with refused() as caught:
            load_checkpoint(wrong)
        assert caught.value.what[:8] in repr(wrong)


def test_a_damaged_export_of_ours(tmp_path):
    arrays = {"params/backbone/stem/conv1/kernel": np.zeros((7, 7, 3, 64), np.float32)}
    path = tmp_path / "model.safetensors"
    save_file(arrays, path)
    with refused(path):
        load_checkpoint(path)
    save_file(arrays, path, {"danet_jax": "{}"})
    with refused(path):
        load_checkpoint(path)
    model = {"backbone": "resnet18", "multi_grid": []}
    description = {"num_classes": 3, "model": model, "classes": None, "config": {}}
    save_file(arrays, path, {"danet_jax": json.dumps(description)})
    with refused(path):
        load_checkpoint(path)
    description["model"]["backbone"] = "resnet17"
    save_file(arrays, path, {"danet_jax": json.dumps(description)})
    with refused(path) as caught:
        load_checkpoint(path)
    assert "resnet17" in str(caught.value)


def test_the_zoo_is_consistent():
    names = [entry.name for entry in zoo.ZOO]
    danets = [entry for entry in zoo.ZOO if entry.name.startswith("mmseg/danet_")]
    assert len(names) == len(set(names))
    assert len(danets) == 16
    assert {
        "torchvision/resnet18",
        "torchvision/resnet34",
        "torchvision/resnet50",
        "torchvision/resnet101",
    } < set(names)
    for entry in zoo.ZOO:
        assert entry.url.startswith("https://")
        assert len(entry.sha256) == 8
        assert zoo.find(entry.name) is entry
    best = max(danets, key=lambda entry: entry.miou_multi_scale or 0)
    assert (best.name, best.miou) == ("mmseg/danet_r101-d8_769x769_80k_cityscapes", 80.47)
    assert best.options["align_corners"] is True
    assert zoo.find("mmseg/danet_r50-d8_512x1024_40k_cityscapes").options["align_corners"] is False


def test_a_name_that_is_neither_file_nor_in_the_zoo():
    with refused("mmseg/danet_r50_512x1024_40k_cityscapes") as caught:
        load_checkpoint("mmseg/danet_r50_512x1024_40k_cityscapes")
    assert "mmseg/danet_r50-d8" in str(caught.value)
    assert zoo.ZOO[0].name in caught.value.allowed


def test_a_name_in_the_zoo_is_downloaded_and_brings_its_options(tmp_path, mmseg, monkeypatch):
    path = saved(tmp_path, {"meta": {}, "state_dict": mmseg})
    asked = []

    def download(url, place, digest):
        asked.append((url.rsplit("-", 1)[-1], place.name.rsplit("-", 1)[-1], digest))
        return path

    monkeypatch.setattr("danet_jax.weights.checkpoint.download", download)
    checkpoint = danet_jax.load_checkpoint("mmseg/danet_r101-d8_769x769_80k_cityscapes")
    assert asked == [("f3a929e7.pth", "f3a929e7.pth", "sha256:f3a929e7")]
    assert checkpoint.model.align_corners is True
    assert "assumed" not in checkpoint.description


def fresh_variables(model):
    """Random variables of a network's shapes; `init` would do, but takes long to compile."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    rng = np.random.default_rng(4)
    shapes = {collection: shapes[collection] for collection in ("params", "batch_stats")}
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)


@pytest.fixture(scope="module")
def fresh():
    model = DANet(5, backbone="resnet18")
    return model, fresh_variables(model)


def test_starting_from_a_backbone_takes_all_of_it_and_says_what_is_new(tmp_path, classifier, fresh):
    model, variables = fresh
    checkpoint = load_checkpoint(saved(tmp_path, classifier))
    started, report = initialize_from(checkpoint, model, variables)
    assert report[0] == "from the checkpoint: backbone"
    assert report[1].startswith("fresh, not in the checkpoint: head/channel_attention")
    assert len(report) == 2
    for collection in ("params", "batch_stats"):
        taken, untouched = started[collection]["backbone"], started[collection]["head"]
        jax.tree.map(np.testing.assert_array_equal, taken, dict(checkpoint.variables[collection]))
        jax.tree.map(np.testing.assert_array_equal, untouched, dict(variables[collection]["head"]))


def test_starting_from_other_classes_keeps_all_but_the_classifiers(tmp_path, mmseg, authors, fresh):
    model, variables = fresh
    started, report = initialize_from(load_checkpoint(saved(tmp_path, authors)), model, variables)
    assert report[1] == (
        "fresh, 3 classes there and 5 here: head/channel_classifier, head/fusion_classifier, head/position_classifier"
    )
    np.testing.assert_array_equal(
        started["params"]["head"]["position_in"]["conv"]["kernel"],
        authors["head.conv5a.0.weight"].numpy().transpose(2, 3, 1, 0),
    )
    assert float(started["params"]["head"]["channel_attention"]["beta"]) == float(authors["head.sc.gamma"])
    classifier = started["params"]["head"]["fusion_classifier"]["kernel"]
    assert classifier.shape == (1, 1, 128, 5)
    assert bool((classifier == variables["params"]["head"]["fusion_classifier"]["kernel"]).all())
    with refused("stem", "v1", "v1c"):
        initialize_from(load_checkpoint(saved(tmp_path, mmseg)), model, variables)


def test_starting_keeps_shardings_and_says_what_is_left_behind(tmp_path, mmseg):
    checkpoint = load_checkpoint(saved(tmp_path, {"meta": {}, "state_dict": mmseg}))
    mesh = jax.make_mesh((8,), ("data",))
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    model = DANet(3, backbone="resnet18", stem="v1c", channel_attention=False)
    variables = jax.device_put(fresh_variables(model), replicated)
    started, report = initialize_from(checkpoint, model, variables)
    assert report[1].startswith(
        "left behind, not in this network: auxiliary/classifier, auxiliary/in, head/channel"
    )
    assert all(leaf.sharding == replicated for leaf in jax.tree.leaves(started))


def test_pretrained_weights_in_a_fresh_network(tmp_path, classifier, authors, fresh):
    model, variables = fresh
    path = saved(tmp_path, classifier)
    started = load_pretrained(model, variables, path)
    expected, _ = initialize_from(load_checkpoint(path), model, variables)
    jax.tree.map(np.testing.assert_array_equal, started, expected)
    with refused(path):
        load_pretrained(DANet(5, "resnet34"), variables_of(DANet(5, "resnet34")), path)
    with refused("variables"):
        load_pretrained(model, {}, path)
    with pytest.warns(UserWarning, match="multi_grid"):  # the authors' networks have one
        load_pretrained(model, variables, saved(tmp_path, {"state_dict": authors}))


def test_checkpoints_are_loaded_from_addresses(tmp_path, authors, monkeypatch, capfd):
    monkeypatch.setenv("DANET_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    content = saved(tmp_path, {"state_dict": authors})
    expected = load_checkpoint(content, multi_grid=None)
    with fsspec.open("memory://weights/authors.pth", "wb") as file:
        file.write(content.read_bytes())
    with serving(content.read_bytes(), "authors.pth?download=1") as server:
        for address in (server.url, "memory://weights/authors.pth", content.as_uri()):
            checkpoint = load_checkpoint(address, multi_grid=None)
            assert checkpoint.model == expected.model
            jax.tree.map(np.testing.assert_array_equal, checkpoint.variables, expected.variables)
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


def test_a_published_file_is_checked_when_its_address_is_given(tmp_path, monkeypatch, classifier):
    monkeypatch.setenv("DANET_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    with serving(saved(tmp_path, classifier).read_bytes(), "resnet18-f37072fd.pth") as server:
        entry = zoo.Entry("here/resnet18", server.url, "imagenet")
        monkeypatch.setattr(zoo, "ZOO", (entry,))
        for source in (server.url, "here/resnet18"):
            with refused(allowed="f37072fd"):
                load_checkpoint(source)


class Touch:
    """A pickle of it makes the file `path` when it is loaded carelessly."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def test_real_imagenet_backbones(imagenet_weights):
    for backbone in ("resnet18", "resnet34"):
        checkpoint = load_checkpoint(
            imagenet_weights / f"{backbone}_imagenet1k_v1.safetensors", output_stride=8
        )
        assert checkpoint.model.backbone == backbone
        for leaf in jax.tree.leaves(checkpoint.variables):
            assert np.isfinite(leaf).all()
        for path, leaf in jax.tree_util.tree_flatten_with_path(checkpoint.variables["batch_stats"])[0]:
            if path[-1].key == "var":
                assert np.min(leaf) >= 0
                assert 1e-3 < np.median(leaf) < 10
