"""Compares the inference time of exported programs with that of the jit-compiled function that they contain.

    python -m benchmarks.exported_inference [--backbone resnet50] [--size 256] [--repeats 5] [--rounds 3]

Each program computes float32 probabilities from one uint8 image. It runs in a process of its own, in turns with the
others for several rounds, and the table shows the best times. Without jax2onnx and onnxruntime, ONNX is reported as
left out.
"""

import argparse
import functools
import importlib.util
import json
import os
import pathlib
import sys
import tempfile
import time

from benchmarks.measuring import in_own_process

PROGRAMS = ("jit", "stablehlo, open size", "stablehlo, one size", "onnx")


def make_checkpoint(options):
    """Returns a network with random weights."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from danet_jax import DANet
    from danet_jax.weights.checkpoint import Checkpoint

    rng = np.random.default_rng(0)
    model = DANet(19, backbone=options.backbone)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(0.01, 0.02, leaf.shape), jnp.float32),
        {collection: shapes[collection] for collection in ("params", "batch_stats")},
    )
    return Checkpoint(model, variables, None, "random")


def exported_function():
    """Returns the exported function, which maps a network, its variables and images to probabilities."""
    from danet_jax import Protocol
    from danet_jax.inference.exporting import probabilities

    return functools.partial(probabilities, Protocol.whole().for_network(align_corners=False))


def export(folder, options):
    """Writes every program that can be written."""
    from danet_jax.weights.export_stablehlo import export_stablehlo

    checkpoint, size, apply = make_checkpoint(options), (options.size, options.size), exported_function()
    export_stablehlo(checkpoint, folder / "stablehlo, open size", None, apply)
    export_stablehlo(checkpoint, folder / "stablehlo, one size", size, apply)
    if importlib.util.find_spec("jax2onnx") and importlib.util.find_spec("onnxruntime"):
        from danet_jax.weights.export_onnx import export_onnx

        export_onnx(checkpoint, folder / "onnx", size, apply)


def load(folder, name, options):
    """Returns a function from images to probabilities."""
    if name == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])
        return lambda images: session.run(None, {"images": images})[0]
    import jax

    if name == "jit":
        from danet_jax.weights.export_files import flat
        from danet_jax.weights.export_stablehlo import by_path

        checkpoint = make_checkpoint(options)
        function = jax.jit(by_path(exported_function(), checkpoint.model))
        weights = flat(checkpoint.variables)
    else:
        import zipfile

        from safetensors.numpy import load

        with zipfile.ZipFile(folder / name) as file:
            program = jax.export.deserialize(bytearray(file.read("program")))
            weights = load(file.read("weights.safetensors"))
        function = jax.jit(program.call)
    weights = jax.device_put(weights)
    return lambda images: function(weights, images).block_until_ready()


def main():
    """Exports the programs, runs them in turn and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    if options.only:
        folder = pathlib.Path(options.folder)
        if options.only == "export":
            export(folder, options)
            print(json.dumps("done"))
            return
        import numpy as np

        start = time.perf_counter()
        run = load(folder, options.only, options)
        images = np.random.default_rng(1).integers(0, 256, (1, options.size, options.size, 3), np.uint8)
        run(images)
        ready, times = time.perf_counter() - start, []
        for _ in range(options.repeats):
            start = time.perf_counter()
            run(images)
            times.append(time.perf_counter() - start)
        print(json.dumps({"ready": ready, "time": min(times)}))
        return
    with tempfile.TemporaryDirectory() as folder:

        def child(what):
            return in_own_process(__file__, *sys.argv[1:], "--only", what, "--folder", folder)

        child("export")
        names = [name for name in PROGRAMS if name == "jit" or pathlib.Path(folder, name).exists()]
        results = {name: [] for name in names}
        for _ in range(options.rounds):
            for name in names:
                results[name].append(child(name))
        sizes = {name: pathlib.Path(folder, name).stat().st_size / 1e6 for name in names if name != "jit"}
    print(f"{options.backbone} DANet, one image {options.size}x{options.size}, float32, CPU")
    print(f"{'':24}{'file, MB':>10}{'ready, s':>10}{'image, s':>10}{'jit / it':>10}")
    jit = min(result["time"] for result in results["jit"])
    for name in names:
        ready, best = (min(result[key] for result in results[name]) for key in ("ready", "time"))
        print(f"{name:24}{sizes.get(name, 0):10.1f}{ready:10.2f}{best:10.3f}{jit / best:10.2f}")
    if "onnx" not in names:
        print("onnx: left out, needs pip install jax2onnx onnxruntime")


if __name__ == "__main__":
    main()
