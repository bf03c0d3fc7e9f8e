"""Images of more than 8 bits: a network that is trained on them takes the same values everywhere."""

import json
import zipfile

import imagecodecs
import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load

from danet_jax import Protocol, load_segmenter
from danet_jax.data.pipeline import evaluation_examples, training_batches
from danet_jax.inference.exporting import probabilities
from danet_jax.modes import evaluate, explore, export, predict, report, train
from danet_jax.modes.prepare import recipe_dataset
from danet_jax.recipe import defaults, read_recipe
from danet_jax.runs.stopping import StopSignals
from danet_jax.weights.checkpoint import load_checkpoint
from tests.reference.narrow import narrow_networks
from tests.reference.refusal import refused

BITS = 12
NAMES = {"train": "abcd", "val": "ef"}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A folder of 12-bit images in 16-bit PNGs, of which one is dark, and one is of 8 bits."""
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("deep")
    (root / "classes.csv").write_text("id,name\n0,dark\n1,bright\n")
    images = {}
    for split, names in NAMES.items():
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True)
        for name in names:
            bright = rng.random((4, 6)) < 0.5
            coarse = np.where(bright, 2600, 900)[..., None].repeat(8, 0).repeat(8, 1)
            pixels = np.clip(coarse + rng.integers(-700, 700, (32, 48, 3)), 0, 4095).astype(np.uint16)
            pixels = {"a": pixels // 16, "b": (pixels // 16).astype(np.uint8)}.get(name, pixels)
            (root / f"images/{split}/{name}.png").write_bytes(imagecodecs.png_encode(pixels))
            Image.fromarray(bright.repeat(8, 0).repeat(8, 1).astype(np.uint8)).save(
                root / f"labels/{split}/{name}.png"
            )
            images[name] = pixels
    return root, images


def recipe_of(root, **options):
    config = defaults()
    config.model.backbone = "resnet18"
    config.model.output_stride = 32
    config.dataset.name = "folder"
    config.dataset.root = str(root)
    config.dataset.data_dir = str(root.parent / f"{root.name}_prepared")
    config.dataset.options = {"bits": BITS} | options
    config.dataset.base_size = config.dataset.crop_size = 32
    config.dataset.photometric = True
    config.dataset.workers = 0
    config.mesh.data = 2
    config.training.batch_size = 4
    config.training.steps = 2
    config.training.report = False
    return read_recipe(config.to_dict())


@pytest.fixture(scope="module")
def run(drawn, tmp_path_factory):
    """The recipe of a run on these images, and the run's folder."""
    workdir = tmp_path_factory.mktemp("run")
    with narrow_networks():
        recipe = recipe_of(drawn[0])
        with StopSignals() as signals:
            assert train.run(recipe, workdir, [], signals=signals) == 0
        yield recipe, workdir


def expected_pixels(pixels):
    return pixels if pixels.dtype == np.uint16 else np.round(pixels * (4095 / 255)).astype(np.uint16)


def test_training_and_evaluation_see_every_bit(drawn, run):
    dataset = recipe_dataset(run[0])
    assert dataset.bits == BITS
    for split in NAMES:
        for example in evaluation_examples(dataset.source(split), bits=BITS):
            assert example["image"].dtype == np.uint16
            np.testing.assert_array_equal(example["image"], expected_pixels(drawn[1][example["name"]]))
    batch = next(
        training_batches(
            dataset.source("train"),
            batch_size=4,
            base_size=32,
            crop_size=32,
            seed=0,
            random_scale=False,
            bits=BITS,
        )
    )
    crops = {name: expected_pixels(drawn[1][name]) for name in NAMES["train"]}
    for image in batch["image"]:
        assert image.dtype == np.uint16
        windows = [
            view
            for pixels in crops.values()
            for upright in (pixels, pixels[:, ::-1])
            for view in np.lib.stride_tricks.sliding_window_view(upright, (32, 32), (0, 1))[0].transpose(
                0, 2, 3, 1
            )
        ]
        assert any(np.array_equal(image, window) for window in windows)


def test_predict_agrees_with_evaluate(drawn, run, tmp_path, capsys):
    recipe, workdir = run
    root = drawn[0]
    assert evaluate.run(recipe, tmp_path, [], checkpoint=str(workdir)) == 0
    counted = json.loads((tmp_path / "evaluation.json").read_text())
    assert counted["protocol"]["bits"] == BITS
    assert predict.run(None, tmp_path, [str(root / "images/val")], checkpoint=str(workdir)) == 0
    segment = load_segmenter(workdir)
    correct = total = 0
    for name in NAMES["val"]:
        labels = np.asarray(Image.open(tmp_path / f"predictions/{name}_labels.png"))
        np.testing.assert_array_equal(labels, segment(drawn[1][name]))
        np.testing.assert_array_equal(labels, segment(root / f"images/val/{name}.png"))
        truth = np.asarray(Image.open(root / f"labels/val/{name}.png"))
        correct, total = correct + (labels == truth).sum(), total + truth.size
    assert counted["pixel_accuracy"] == pytest.approx(correct / total, abs=1e-3)
    segment(root / "images/train/a.png")  # which is dark
    pattern = str(root / "images/val/%d.png")
    for number, name in enumerate(NAMES["val"]):
        (root / f"images/val/{number}.png").hardlink_to(root / f"images/val/{name}.png")
    assert predict.run(None, tmp_path, [pattern], checkpoint=str(workdir), frame_labels=True) == 0
    for number, name in enumerate(NAMES["val"]):
        (root / f"images/val/{number}.png").unlink()
        [frame] = (tmp_path / "predictions").glob(f"*_labels/{number:06d}.png")
        labels = np.asarray(Image.open(tmp_path / f"predictions/{name}_labels.png"))
        assert np.mean(np.asarray(Image.open(frame)) == labels) > 0.999  # batches of another size


def test_explore_and_report_show_the_images(drawn, run, tmp_path):
    recipe, workdir = run
    paths = [str(drawn[0] / f"images/val/{name}.png") for name in NAMES["val"]]
    assert explore.run(None, tmp_path, paths, checkpoint=str(workdir)) == 0
    assert explore.run(recipe, tmp_path, [], checkpoint=str(workdir)) == 0
    assert report.run(None, workdir, []) == 0
    assert "No validation images" not in (workdir / "report.html").read_text()


def test_arrays_of_another_range_are_refused(drawn, run):
    segment, image = load_segmenter(run[1]), drawn[1]["e"]
    assert segment.protocol.bits == BITS
    for invalid in ((image >> 4).astype(np.uint8), image.astype(np.float32), image * 8):
        with refused(what="images"):
            segment(invalid)
    eight = load_segmenter(run[1], Protocol.whole().replace(bits=8))
    with refused(what="images"):
        eight(image)
    assert np.mean(eight((image >> 4).astype(np.uint8)) == segment(image)) > 0.9
    photo = Image.fromarray((image >> 4).astype(np.uint8))
    np.testing.assert_array_equal(segment(photo), segment(expected_pixels(np.asarray(photo))))


@pytest.mark.parametrize("protocol", ["whole", "mmseg"])
def test_stablehlo_exports_take_uint16(drawn, run, tmp_path, protocol):
    """Protocols with windows are exported for whole images."""
    recipe, workdir = run
    evaluation = recipe.evaluation.model_copy(update={"protocol": protocol})
    recipe = recipe.model_copy(update={"evaluation": evaluation})
    assert export.run(recipe, tmp_path, [], checkpoint=str(workdir), format="stablehlo") == 0
    with zipfile.ZipFile(tmp_path / "export/model.stablehlo.zip") as file:
        program = jax.export.deserialize(bytearray(file.read("program")))
        content = file.read("weights.safetensors")
    assert b'\\"bits\\": 12' in content[:65536]
    image = drawn[1]["e"][None]
    expected = load_segmenter(workdir, Protocol.whole()).scores(image)
    np.testing.assert_allclose(program.call(load(content), image), expected, atol=1e-4)


def test_safetensors_exports_keep_the_bit_depth(drawn, run, tmp_path):
    workdir = run[1]
    segment, image = load_segmenter(workdir), drawn[1]["e"]
    expected = segment.scores(image[None])
    assert export.run(None, tmp_path, [], checkpoint=str(workdir), format="safetensors") == 0
    again = load_segmenter(tmp_path / "export/model.safetensors")
    assert again.protocol == segment.protocol
    np.testing.assert_array_equal(again.scores(image[None]), expected)
    with refused(what="--format=torch", value=BITS):
        export.run(None, tmp_path, [], checkpoint=str(workdir), format="torch")


@pytest.mark.slow
def test_onnx_exports_take_uint16(drawn, run, tmp_path):
    pytest.importorskip("jax2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    assert export.run(None, tmp_path, ["32x48"], checkpoint=str(run[1]), format="onnx") == 0
    session = onnxruntime.InferenceSession(tmp_path / "export/model.onnx", providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["danet_jax"])["bits"] == json.loads(metadata["protocol"])["bits"] == BITS
    image = drawn[1]["e"][None]
    checkpoint = load_checkpoint(run[1])
    segment = load_segmenter(run[1])
    expected = probabilities(segment.protocol, checkpoint.model, checkpoint.variables, image)
    np.testing.assert_allclose(session.run(None, {"images": image})[0], expected, atol=1e-4)


@pytest.mark.slow
def test_resuming_keeps_the_bit_depth(run):
    recipe, workdir = run
    longer = recipe.model_copy(
        update={"training": recipe.training.model_copy(update={"steps": 3, "resume_anyway": True})}
    )
    with StopSignals() as signals:
        assert train.run(longer, workdir, [], signals=signals) == 0
    assert load_checkpoint(workdir).bits == BITS
