"""`--mode=compile`: asks a compiler what a program would need on an accelerator that is not here."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from danet_jax.errors import InputError
from danet_jax.inference.plain import WholeImages
from danet_jax.inference.predictor import LABELS
from danet_jax.inference.protocol import Protocol
from danet_jax.models.danet import DANet
from danet_jax.modes.arguments import size_of
from danet_jax.modes.memory import GIB, memory_of, remedies
from danet_jax.modes.prepare import recipe_builder
from danet_jax.modes.train import training_step
from danet_jax.ops.normalize import normalize
from danet_jax.recipe import Recipe
from danet_jax.runs.directory import library_versions
from danet_jax.runs.files import write_json, write_text
from danet_jax.training.mesh import make_mesh, refuse_indivisible
from danet_jax.training.topologies import EXAMPLES, Topology, count_flops, find_topology

STEPS = ("train", "predict")


def run(
    recipe: Recipe, workdir: Path, arguments: list[str], *, topology: str = "", step: str = "train"
) -> int:
    """Compiles a step of the recipe for `topology` and writes `compile/NAME.hlo` and `compile/NAME.json`.

    Nothing is trained, and no data are needed. An argument HEIGHTxWIDTH is the image size; the default is the crop
    size. The status is 0 if the program fits into the memory of the devices, 1 if not.
    """
    if step not in STEPS:
        raise InputError(
            f"--step={step} does not exist; there are: {', '.join(STEPS)}",
            what="--step",
            value=step,
            allowed=STEPS,
        )
    if not topology:
        raise InputError(
            f"--mode=compile needs --topology=NAME, for example: {EXAMPLES}",
            what="--topology",
            allowed=EXAMPLES,
        )
    jax.config.update("jax_platforms", "cpu")  # leave a device that is here to others
    size = size_of(arguments, "compile") or (recipe.dataset.crop_size,) * 2
    found = find_topology(topology)
    mesh = make_mesh(recipe.mesh.data, recipe.mesh.space, found.devices)
    for side in (*size[:1], recipe.dataset.crop_size) if step == "predict" else size[:1]:
        refuse_indivisible(
            mesh,
            batch_size=recipe.training.batch_size if step == "train" else mesh.shape["data"],
            accumulation=recipe.training.accumulation if step == "train" else 1,
            crop_size=side,
        )
    model = recipe.network(_number_of_classes(recipe))
    function, counted, inputs = (_training if step == "train" else _prediction)(recipe, model, mesh, size)

    name = topology if step == "train" else f"{topology}-{step}"
    file = workdir / "compile" / f"{name}.json"
    compiled, needed = None, None
    started = time.perf_counter()
    traced = function.trace(*inputs)
    try:
        compiled = traced.lower().compile(compiler_options=_compiler_options(found, step))
    except jax.errors.JaxRuntimeError as error:
        needed = _beyond_memory(error, topology)  # a TPU's compiler gives up where memory does not suffice
    seconds = time.perf_counter() - started
    report = {
        "devices": mesh.size,
        "mesh": dict(mesh.shape),
        **_memory_report(compiled, needed, found.memory),
        "flops": _flops(counted, inputs, found.devices[0].platform, mesh.size),
        "bytes_accessed_gb": _bytes_accessed(compiled),
        "compile_seconds": round(seconds, 1) if compiled else 0.0,
        "versions": library_versions(),
    }
    text = compiled and compiled.as_text()
    if text:
        write_text(file.with_suffix(".hlo"), text)
    else:
        file.with_suffix(".hlo").unlink(missing_ok=True)
    write_json(file, report)
    images = jax.tree.leaves(inputs[1])[0].shape[0]
    print(
        f"{recipe.model.backbone}, {recipe.model.dtype}, {step} step, {images} x {size[0]}x{size[1]}, on {topology} "
        f"(data {mesh.shape['data']} x space {mesh.shape['space']})"
    )
    _print(report)
    print(_verdict(report, recipe, step, topology, mesh))
    print(file)
    return 0 if report["fits"] else 1


def _compiler_options(found: Topology, step: str) -> dict[str, str | int | bool]:
    if step == "train" or found.devices[0].platform not in ("cuda", "gpu"):
        return found.compiler_options
    # Where kernels are not timed, Triton has no tiles for the products that bring logits to the size of an image.
    return found.compiler_options | {"xla_gpu_enable_triton_gemm": False}


class _Step(NamedTuple):
    """What is compiled, a function of the same inputs whose operations are counted, and their placed shapes."""

    function: Any
    counted: Any
    inputs: tuple[Any, Any]


def _training(recipe: Recipe, model: DANet, mesh: Mesh, size: tuple[int, int]) -> _Step:
    """The training step of `--mode=train`, for its state and a batch."""
    made = training_step(recipe, model, recipe.training.steps or 1000)
    state = jax.eval_shape(lambda: made.fresh_state(mesh))
    sharding = NamedSharding(mesh, PartitionSpec("data", "space"))
    shape = (recipe.training.batch_size, *size)
    batch = {
        name: jax.ShapeDtypeStruct(of_it, jnp.uint8, sharding=sharding)
        for name, of_it in (("image", (*shape, 3)), ("label", shape))
    }
    return _Step(made.step, made.step, (_replicated(state, mesh), batch))


def _prediction(recipe: Recipe, model: DANet, mesh: Mesh, size: tuple[int, int]) -> _Step:
    """From 8-bit images to labels, as a `Segmenter` does it for whole images and as many at a time."""
    state = jax.eval_shape(lambda: training_step(recipe, model, 1).fresh_state(mesh))
    mean, std = recipe.protocol().normalisation
    protocol = Protocol.whole().for_network(model.align_corners, mean, std)
    whole = WholeImages(model, protocol, mesh)
    inputs = whole.inputs(whole.group(*size), [])

    def predict(variables: Any, images: jax.Array) -> jax.Array:
        return whole.program(variables, inputs._replace(images=images), reduction=LABELS)

    def network(variables: Any, images: jax.Array) -> Any:
        return model.apply(variables, normalize(images, mean, std), upsample=False)

    sharding = NamedSharding(mesh, PartitionSpec("data"))
    images = jax.ShapeDtypeStruct(inputs.images.shape, inputs.images.dtype, sharding=sharding)
    return _Step(jax.jit(predict), jax.jit(network), (_replicated(state.variables, mesh), images))


def _replicated(tree: Any, mesh: Mesh) -> Any:
    sharding = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def _number_of_classes(recipe: Recipe) -> int:
    """That of the data set; 19, as in Cityscapes, for a `folder` that is not here or does not list its classes."""
    data = recipe.dataset
    try:
        return len(recipe_builder(recipe).classes)
    except InputError:
        classes = len(data.class_names) or 19
        print(f"dataset.root={data.root!r} is not here: compiled for {classes} classes")
        return classes


def _memory_report(
    compiled: jax.stages.Compiled | None, needed: int | None, available: int
) -> dict[str, Any]:
    """What compile/NAME.json holds about the memory of each device; None where a compiler that gave up says nothing."""

    def gib(size: int) -> float:
        return round(size / GIB, 3)

    memory = memory_of(compiled) if compiled else None
    total = memory.total if memory else needed or 0
    return {
        "scratch_gib": gib(memory.scratch) if memory else None,
        "arguments_gib": gib(memory.arguments) if memory else None,
        "output_gib": gib(memory.output) if memory else None,
        "total_gib": gib(total),
        "device_memory_gib": gib(available),
        "fits": memory is not None and total <= available,
    }


def _flops(function: Any, inputs: Any, platform: str, devices: int) -> float | None:
    """Operations of one device: lowered once more without devices, since JAX counts only for a backend that is here."""
    anywhere = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), inputs)
    platform = "cuda" if platform == "gpu" else platform
    flops = count_flops(function.trace(*anywhere).lower(lowering_platforms=(platform,)))
    return None if flops is None else flops / devices


def _bytes_accessed(compiled: jax.stages.Compiled | None) -> float | None:
    """XLA's own count of the bytes that one device reads and writes, in GB; None if it has none."""
    analysis: Any = compiled.cost_analysis() if compiled else None
    count = (analysis or {}).get("bytes accessed")
    return None if count is None else round(count / 1e9, 3)


def _beyond_memory(error: Exception, topology: str) -> int:
    """Bytes of a program for which a compiler found the memory too small; raises InputError for any other error."""
    message = " ".join(str(error).split())
    used = re.search(r"Used ([\d.]+)([KMG]) of [\d.]+[KMG] hbm", message)
    if used is None:
        raise InputError(
            f"--topology={topology}: the compiler refuses the program: {message[:400]}",
            what="--topology",
            value=topology,
        ) from error
    return int(float(used[1]) * {"K": 2**10, "M": 2**20, "G": 2**30}[used[2]])


def _print(report: dict[str, Any]) -> None:
    """Prints the report as a table."""
    rows = [
        ("arguments (weights, optimizer, batch), GiB", report["arguments_gib"]),
        ("results that do not take their place, GiB", report["output_gib"]),
        ("scratch, GiB", report["scratch_gib"]),
        ("total per device, GiB", report["total_gib"]),
        ("memory of a device, GiB", report["device_memory_gib"]),
        (
            "floating-point operations per device, GFLOP",
            report["flops"] and round(report["flops"] / 1e9, 1),
        ),
        ("bytes accessed per device, GB", report["bytes_accessed_gb"]),
        ("compilation, s", report["compile_seconds"]),
    ]
    for label, value in rows:
        print(f"  {label:44}{'unknown' if value is None else value:>12}")


def _verdict(report: dict[str, Any], recipe: Recipe, step: str, topology: str, mesh: Mesh) -> str:
    difference = report["device_memory_gib"] - report["total_gib"]
    if report["fits"]:
        # JAX takes three quarters of a GPU's memory unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.
        more = topology.startswith("h100") and report["total_gib"] > 0.75 * report["device_memory_gib"]
        return f"fits, with {difference:.2f} GiB to spare" + (
            "; set XLA_PYTHON_CLIENT_MEM_FRACTION=0.95" if more else ""
        )
    change = "; ".join(remedies(recipe, mesh, training=step == "train"))
    return f"does not fit: {-difference:.2f} GiB too much; {change}"
