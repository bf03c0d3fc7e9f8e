"""Computes facts about a checkout of this project, which `benchmarks.compare_checkouts` compares.

It runs in a process of its own, with the checkout on the path and an empty folder as its working directory:

    python checkout_facts.py CHECKOUT PART,... OUTPUT [quick]

A fact is an array or a plain value with a name. Only public names are used (`danet_jax`, `run.py` and its flags), so
that modules may move between the checkouts.
"""

import collections
import hashlib
import importlib.util
import io
import json
import pathlib
import pickle
import re
import sys
import traceback
import zipfile
import zlib

import numpy as np
from PIL import Image

VOLATILE = re.compile(r"(^|[/_])(seconds|images_per_second|time|waiting_for_data|versions|flops_utilisation)")
"""Keys of JSON files whose values are times or versions."""

VARIANTS = {
    "resnet18 paper align": {"channel_energy": "paper", "align_corners": False, "multi_grid": (4, 8)},
    "resnet18 fcn auxiliary": {"position_attention": False, "channel_attention": False, "auxiliary": True},
    "resnet50 v1c multi_grid": {"backbone": "resnet50", "stem": "v1c", "multi_grid": (4, 8, 16)},
    "resnet18": {},
    "resnet34 undilated": {"backbone": "resnet34", "second_dilation": False, "channel_attention": False},
    "resnet50 v1s stride 16": {"backbone": "resnet50", "stem": "v1s", "output_stride": 16},
    "resnet18 bfloat16": {"dtype": "bfloat16"},
}
"""Options of `DANet`; --quick takes the first three."""

RUN = """model.backbone=resnet18 model.output_stride=32 mesh.data=1 evaluation.whole_base_size=()
    dataset.root=photos dataset.data_dir=prepared"""
TRAINING = """dataset.crop_size=48 dataset.base_size=64 dataset.workers=0 seed=3 init.alpha=0.5 init.beta=0.25
    training.batch_size=4 training.steps=5 training.evaluate_every=5 training.log_every=1
    training.checkpoint_every=3 training.learning_rate=0.02 training.report=False"""
OPTIONS = """model.output_stride=8 model.auxiliary=True model.channel_energy=paper model.stem=v1c
    training.ema_decay=0.9 training.ohem_threshold=0.7 training.ohem_kept=500 training.class_balance=0.5
    training.accumulation=2 dataset.photometric=True"""


def settings(text):
    """Returns the flags of `run.py` for options of a recipe."""
    return [f"--config.{option}" for option in text.split()]


class Facts(dict):
    """The facts about a checkout, by name."""

    def __init__(self, checkout, folder, quick):
        super().__init__()
        self.checkout, self.folder, self.quick, self.part = checkout, folder, quick, ""

    def note(self, name, value):
        """Stores a fact of the current part: an array, a plain value, or a dictionary of facts."""
        if isinstance(value, dict):
            for key, each in value.items():
                self.note(f"{name}/{key}", each)
        elif not VOLATILE.search(name):
            self[f"{self.part}: {name}"] = np.asarray(value) if hasattr(value, "shape") else value

    def command(self, name, *arguments):
        """Runs `run.py` in this process, and stores its exit status, the files that it writes and their contents."""
        import run

        before = states(self.folder)
        try:
            status = run.main(["run.py", *map(str, arguments)])
        except SystemExit as error:
            status = error.code
        after = states(self.folder)
        self.note(f"{name}/status", status)
        names = {path: plain_name(self.folder, path) for path in before | after}
        written = sorted(path for path in after if after[path] != before.get(path))
        self.note(f"{name}/written", dict.fromkeys((names[path] for path in written), True))
        self.note(f"{name}/removed", dict.fromkeys((names[path] for path in before.keys() - after), True))
        for path in written:
            self.note(f"{name}/{names[path]}", contents(path))

    def train(self, name, *changes):
        """Trains five steps, and stores losses, parameters and all files as facts; returns the flags of the run."""
        flags = [f"--config={self.checkout}/configs/folder.py", f"--workdir={name}", *settings(RUN), *changes]
        self.command(f"train {name}", *settings(TRAINING), *flags)
        self.note(f"train {name}/parameters", parameters(name))
        return flags


def networks(facts):
    """Stores the logits of seeded networks, and the initial values of one."""
    import jax

    from danet_jax import DANet

    images = np.random.default_rng(1).standard_normal((2, 41, 57, 3), np.float32)
    for name, options in list(VARIANTS.items())[: 3 if facts.quick else None]:
        model = DANet(**{"num_classes": 7, "backbone": "resnet18", **options})
        variables = seeded(jax.eval_shape(model.init, jax.random.key(0), images))
        facts.note(f"{name}/shapes", {path: leaf.shape for path, leaf in by_path(variables).items()})
        logits = jax.jit(model.apply)(variables, images)
        facts.note(f"{name}/logits", {key: x for key, x in logits._asdict().items() if x is not None})
    if not facts.quick:
        facts.note("initial", by_path(jax.jit(model.init)(jax.random.key(5), images)))


def labels(facts):
    """Stores the labels and scores of images under five protocols, and the fields of the presets."""
    import jax

    from danet_jax import DANet, Protocol, Segmenter

    model = DANet(7, backbone="resnet18", output_stride=32 if facts.quick else 8)
    variables = seeded(jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32)))
    images = np.stack([photo(seed, 70, 90)[0] for seed in (0, 1)])
    tiny = {"base_size": 80, "window": (48, 48), "stride": (24, 32)}
    protocols = {
        "whole": Protocol.whole(),
        "authors": Protocol.authors().replace(**tiny),
        "authors_ms": Protocol.authors(multi_scale=True).replace(**tiny, scales=(0.75, 1.25)),
        "mmseg": Protocol.mmseg().replace(**tiny | {"base_size": (100, 60)}),
        "custom": Protocol(scales=(0.5, 1.0), flip=True, window=(64, 48), stride=(40, 48), merge="logits"),
    }
    for name, protocol in protocols.items():
        segmenter = Segmenter(model, variables, protocol)
        facts.note(f"{name}/labels", np.stack(list(segmenter.stream(images))))
        if not facts.quick:
            facts.note(f"{name}/labels of a batch", segmenter(images))
            facts.note(f"{name}/scores", segmenter.scores(images[:1]))
    for dataset in ("cityscapes", "pascal_context", "ade20k", "folder"):
        for make in (Protocol.authors, Protocol.mmseg):
            for multi_scale in (False, True):
                protocol = make(dataset, multi_scale=multi_scale)
                facts.note(f"preset {dataset} {protocol.name}", protocol.as_dict())


def steps(facts):
    """Trains five steps, with the defaults and with every option that changes the step."""
    facts.train("plain")
    if not facts.quick:
        facts.train("options", *settings(OPTIONS))


def stored(facts):
    """Loads, evaluates and trains further the run and the prepared data that the base checkout wrote."""
    from danet_jax import load_segmenter

    facts.note("labels", load_segmenter("stored")(photo(9, 64, 80)[0][None]))
    facts.note("parameters", parameters("stored"))
    facts.command("evaluate", "--mode=evaluate", "--workdir=stored")
    facts.train("stored", *settings("training.steps=7 training.resume_anyway=True"))


def make_stored(facts):
    """Creates the run and the prepared data for `stored`."""
    facts.train("stored")


def exports(facts):
    """Stores the names, shapes and values in every export format, and what the exported programs compute."""
    flags = facts.train("exported")
    for name in ("safetensors", "torch", "stablehlo", "onnx"):
        facts.command(name, *flags, "--mode=export", f"--format={name}", *["64x80"] * (name == "onnx"))


def modes(facts):
    """Stores the exit status of each mode and what it writes, for a tiny folder of photos."""
    flags = facts.train("run")
    example = "photos/images/val/photo8.png"
    facts.command("train again", *flags, *settings(TRAINING))
    for mode in ("prepare", "check", "evaluate", "predict", "explore", "submit"):
        facts.command(mode, f"--mode={mode}", *flags)
    facts.command("ablate", "--mode=evaluate", "--ablate", *flags)
    facts.command("compare", "--mode=evaluate", *flags, "run", "run")
    facts.command("predict photos", "--mode=predict", "--workdir=run", example, "photos/images/train")
    facts.command("explore photo", "--mode=explore", "--workdir=run", example)
    facts.command("report", "--mode=report", "--workdir=run")
    facts.command("zoo", "--mode=zoo")
    small = settings("dataset.crop_size=32 training.batch_size=2")
    has_tpu_compiler = importlib.util.find_spec("libtpu") is not None
    for topology in ["cpu:1"] + ["v5e:1x1"] * (has_tpu_compiler and not facts.quick):
        for step in ("train", "predict"):
            arguments = ("--mode=compile", f"--topology={topology}", f"--step={step}")
            facts.command(f"compile {topology} {step}", *arguments, *flags, *small)
    refused = {
        "mode": ("--mode=dance", *flags),
        "option": (*flags, "--config.training.stepz=3"),
        "value": (*flags, "--config.training.steps=many"),
        "flag": ("--mode=zoo", "--format=onnx"),
        "another recipe": (*flags, *settings(TRAINING), "--config.training.learning_rate=0.5"),
        "no run": ("--mode=predict", "--workdir=nowhere", example),
        "no photo": ("--mode=predict", "--workdir=run", "nothing.jpg"),
        "no format": ("--mode=export", "--workdir=run"),
        "no topology": ("--mode=compile", *flags),
        "no data": ("--mode=prepare", *flags, "--config.dataset.root=nowhere"),
    }
    for name, arguments in refused.items():
        facts.command(f"refused {name}", *arguments)


PARTS = {part.__name__: part for part in (networks, labels, steps, stored, exports, modes)}


def seeded(shapes):
    """Returns variables of these shapes, from one generator per path, such that attention and every class matter."""
    import jax

    def draw(path, leaf):
        rng = np.random.default_rng(zlib.crc32(path.encode()))
        values = rng.standard_normal(leaf.shape)
        if len(leaf.shape) > 1:  # a kernel
            return np.float32(values * np.sqrt(2 / np.prod(leaf.shape[:-1])))
        return np.float32(0.8 + 0.2 * np.abs(values))

    paths, structure = jax.tree.flatten_with_path(shapes)
    return structure.unflatten([draw(jax.tree_util.keystr(path), leaf) for path, leaf in paths])


def by_path(tree):
    """Returns the leaves of nested dictionaries by their path."""
    import jax

    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): x
        for path, x in jax.tree.leaves_with_path(tree)
    }


def parameters(run):
    """Returns the variables of a run's best checkpoint."""
    from danet_jax import load_checkpoint

    return by_path(load_checkpoint(run).variables)


def photo(seed, height, width):
    """Returns an image of coloured blobs, uint8 `[H, W, 3]`, and its label map of four classes."""
    rng = np.random.default_rng(seed)
    label = np.kron(rng.integers(0, 4, (4, 4)), np.ones((-(-height // 4), -(-width // 4)), int))[
        :height, :width
    ]
    colours = np.array([[200, 40, 30], [30, 180, 60], [50, 60, 210], [220, 210, 40]])
    image = np.clip(colours[label] + rng.normal(0, 20, (height, width, 3)), 0, 255)
    return image.astype(np.uint8), label.astype(np.uint8)


def write_photos(folder):
    """Writes a data set in the simplest layout of docs/your_own_data.md: images, label maps and a list of classes."""
    for index in range(11):
        split = "train" if index < 8 else "val"
        image, label = photo(index, 64 + index, 80 - index)
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        suffix = "jpg" if index % 2 else "png"
        Image.fromarray(image).save(folder / f"images/{split}/photo{index}.{suffix}")
        Image.fromarray(label).save(folder / f"labels/{split}/photo{index}.png")
    (folder / "classes.txt").write_text("wall\nmeadow\nlake\nsand\n")


def states(folder):
    """Returns the inode, size and time of each file by its path, which show whether it was written."""
    files = (
        path
        for path in folder.rglob("*")
        if path.is_file() and "cache" not in path.parts and not path.name.startswith(".outputs")
    )
    return {path: (path.stat().st_ino, path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def plain_name(folder, path):
    """Returns a path without hashes and times."""
    name = str(path.relative_to(folder))
    return re.sub(r"[0-9a-f]{16,}|events\.out\.\S+|(?<=ocdbt\.process_)\d+", "#", name)


def contents(path):
    """Returns the contents of a file that a mode wrote as facts, or nothing for pages, logs and checkpoints."""
    data, suffix = path.read_bytes(), path.suffix
    if "checkpoints" in path.parts or ("prepared" in path.parts and suffix == ".json"):
        return {}
    if suffix == ".png":
        return {"pixels": np.asarray(Image.open(io.BytesIO(data)))}
    if suffix == ".json":
        return flat(json.loads(data))
    if suffix == ".jsonl":
        return flat([json.loads(line) for line in data.splitlines()])
    if suffix == ".csv":
        return {"text": data.decode()}
    if ".array_record" in path.name:
        return {"sha256": hashlib.sha256(data).hexdigest()}
    if suffix == ".safetensors":
        return safetensors(data)
    if suffix == ".pth":
        import torch

        content = torch.load(path, weights_only=True)
        return {name: x.numpy() for name, x in content["state_dict"].items()}
    images = photo(20, 64, 80)[0][None]
    if suffix == ".zip":
        import jax
        from safetensors.numpy import load

        archive = zipfile.ZipFile(path)
        weights = archive.read("weights.safetensors")
        program = jax.export.deserialize(bytearray(archive.read("program")))
        scores = np.asarray(program.call(load(weights), images))
        return {"members": archive.namelist(), "scores": scores, **safetensors(weights)}
    if suffix == ".onnx":
        import onnx
        import onnxruntime

        model = onnx.load(path)
        weights = {x.name: onnx.numpy_helper.to_array(x) for x in model.graph.initializer}
        # Constants are compared by content, because their names depend on how often a function was traced.
        digests = collections.Counter(hashlib.sha256(x.tobytes()).hexdigest() for x in weights.values())
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return {
            **{entry.key: entry.value for entry in model.metadata_props},
            "inputs": [(x.name, x.type, x.shape) for x in session.get_inputs()],
            "outputs": [(x.name, x.type, x.shape) for x in session.get_outputs()],
            "weights": sorted(digests.items()),
            "scores": session.run(None, {session.get_inputs()[0].name: images})[0],
        }
    return {}


def safetensors(data):
    """Returns the tensors and metadata of a safetensors file."""
    from safetensors.numpy import load

    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return {**load(data), "metadata": header.get("__metadata__", {})}


def flat(value, name=""):
    """Returns the parts of a JSON value by path, so that each key is a separate fact."""
    items = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    )
    if not items:
        return {name: value}
    return {
        path: each
        for key, x in items
        for path, each in flat(x, f"{name}/{key}" if name else str(key)).items()
    }


def main(checkout, parts, output, quick=""):
    """Computes the facts of some parts and writes them."""
    facts = Facts(checkout, pathlib.Path.cwd(), bool(quick))
    for facts.part in parts.split(","):
        try:
            (make_stored if facts.part == "make_stored" else PARTS[facts.part])(facts)
        except Exception as error:
            traceback.print_exc()
            facts.note("failure", f"{type(error).__name__}: {error}")
    pathlib.Path(output).write_bytes(pickle.dumps(dict(facts)))


if __name__ == "__main__":
    main(*sys.argv[1:])
