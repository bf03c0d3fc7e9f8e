"""`--mode=compile`: what a program would need on an accelerator that is not here, by asking its compiler."""

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
from danet_jax.modes.memory import remedies
from danet_jax.modes.prepare import recipe_builder
from danet_jax.modes.sizes import size_of
from danet_jax.modes.training_step import training_step
from danet_jax.ops.normalize import normalize
from danet_jax.recipe import Recipe
from danet_jax.runs.directory import library_versions
from danet_jax.runs.files import write_json, write_text
from danet_jax.training.mesh import make_mesh, refuse_indivisible
from danet_jax.training.program import Program, count_flops, read_program
from danet_jax.training.topologies import EXAMPLES, Topology, find_topology

STEPS = ("train", "predict")

GIB, GB = 2**30, 1e9


def run(
    recipe: Recipe, workdir: Path, arguments: list[str], *, topology: str = "", step: str = "train"
) -> int:
    """Compiles a step of the recipe for `topology` and writes `compile/NAME.hlo` and `compile/NAME.json`.

    Nothing is trained, and no data are needed. An argument HEIGHTxWIDTH is the size of the images, else the crop's.
    Status 0 if the program fits into the memory of the devices, 1 if not.
    """
    if step not in STEPS:
        raise InputError(f"--step={step} does not exist; there are: {', '.join(STEPS)}")
    if not topology:
        raise InputError(f"--mode=compile needs --topology=NAME, for example: {EXAMPLES}")
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
    program, text, seconds, needed = None, "", 0.0, None
    started = time.perf_counter()
    traced = function.trace(*inputs)
    try:
        compiled = traced.lower().compile(compiler_options=_compiler_options(found, step))
        seconds = time.perf_counter() - started
        program, text = read_program(compiled), compiled.as_text() or ""
    except jax.errors.JaxRuntimeError as error:
        needed = _beyond_memory(error)  # a TPU's compiler gives up where memory is too small
    report = _report(program, needed, found, mesh)
    report["flops"] = _flops(counted, inputs, found.devices[0].platform, mesh.size)
    report["compile_seconds"] = round(seconds, 1)
    report["versions"] = library_versions()
    if text:
        write_text(file.with_suffix(".hlo"), text)
    else:
        file.with_suffix(".hlo").unlink(missing_ok=True)
    write_json(file, report)
    images = jax.tree.leaves(inputs[1])[0].shape[0]
    _print(report, _title(recipe, step, (images, *size), topology, mesh))
    print(_verdict(report, recipe, step, topology, mesh))
    print(file)
    return 0 if report["fits"] else 1


def _compiler_options(found: Topology, step: str) -> dict[str, str | int | bool]:
    if step == "train" or found.devices[0].platform not in ("cuda", "gpu"):
        return found.compiler_options
    # Where none are timed, Triton has no tiles for the products that bring logits to the size of an image.
    return found.compiler_options | {"xla_gpu_enable_triton_gemm": False}


class _Step(NamedTuple):
    """What is compiled, a function of the same inputs whose operations are counted, and shapes of these, placed."""

    function: Any
    counted: Any
    inputs: tuple[Any, Any]


def _training(recipe: Recipe, model: DANet, mesh: Mesh, size: tuple[int, int]) -> _Step:
    """The training step that `--mode=train` makes, of its state and a batch."""
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
    """From 8-bit images to labels as a `Segmenter` makes them of whole images, as many as it takes at once."""
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


def _flops(function: Any, inputs: Any, platform: str, devices: int) -> float | None:
    """Of one device: lowered once more without devices, since JAX counts only for a backend that is here."""
    anywhere = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), inputs)
    platform = "cuda" if platform == "gpu" else platform
    flops = count_flops(function.trace(*anywhere).lower(lowering_platforms=(platform,)))
    return None if flops is None else flops / devices


def _number_of_classes(recipe: Recipe) -> int:
    """Of the data set; of a `folder` that is not here, or lists no classes, 19, as if it were Cityscapes."""
    data = recipe.dataset
    try:
        return len(recipe_builder(recipe).classes)
    except InputError:
        classes = len(data.class_names) or 19
        print(f"dataset.root={data.root!r} is not here: compiled for {classes} classes")
        return classes


def _beyond_memory(error: Exception) -> int:
    """Bytes that a program takes for which a compiler found the memory too small; raises InputError for else."""
    message = " ".join(str(error).split())
    used = re.search(r"Used ([\d.]+)([KMG]) of [\d.]+[KMG] hbm", message)
    if used is None:
        raise InputError(f"the compiler refuses the program: {message[:400]}") from error
    return int(float(used[1]) * {"K": 2**10, "M": 2**20, "G": 2**30}[used[2]])


def _report(program: Program | None, needed: int | None, topology: Topology, mesh: Mesh) -> dict[str, Any]:
    """What compile/NAME.json holds, of each device; what a compiler that gave up did not say is None."""

    def gib(size: int) -> float:
        return round(size / GIB, 3)

    report: dict[str, Any] = {"devices": mesh.size, "mesh": dict(mesh.shape)}
    report |= dict.fromkeys(("scratch_gib", "arguments_gib", "output_gib"))
    report |= {"total_gib": gib(needed or 0), "device_memory_gib": gib(topology.memory), "fits": False}
    report |= dict.fromkeys(("traffic_gb", "collective_gb", "collectives", "widest_convolution_window"))
    if program is not None:
        report |= {
            "scratch_gib": gib(program.scratch),
            "arguments_gib": gib(program.arguments),
            "output_gib": gib(program.output),
            "total_gib": gib(program.total),
            "fits": program.total <= topology.memory,
            "traffic_gb": round(program.traffic / GB, 3),
            "collective_gb": round(sum(program.collectives.values()) / GB, 3),
            "collectives": {kind: round(moved / GB, 4) for kind, moved in program.collectives.items()},
            "widest_convolution_window": program.widest_window,
        }
    return report


def _title(recipe: Recipe, step: str, shape: tuple[int, int, int], topology: str, mesh: Mesh) -> str:
    images, height, width = shape
    return (
        f"{recipe.model.backbone}, {recipe.model.dtype}, {step} step, {images} x {height}x{width}, on {topology} "
        f"(data {mesh.shape['data']} x space {mesh.shape['space']})"
    )


def _print(report: dict[str, Any], title: str) -> None:
    """The report as a table."""
    share = report["collective_gb"] / report["traffic_gb"] if report["traffic_gb"] else None
    rows = [
        ("arguments (weights, optimizer, batch), GiB", report["arguments_gib"]),
        ("results that do not take their place, GiB", report["output_gib"]),
        ("scratch, GiB", report["scratch_gib"]),
        ("in all, GiB of each device", report["total_gib"]),
        ("a device has, GiB", report["device_memory_gib"]),
        ("floating-point operations of each, GFLOP", report["flops"] and round(report["flops"] / 1e9, 1)),
        ("traffic of memory, GB", report["traffic_gb"]),
        ("of it between devices", None if share is None else f"{100 * share:.1f} %"),
        *((f"  {kind}, GB", moved) for kind, moved in (report["collectives"] or {}).items()),
        ("widest window of a convolution", report["widest_convolution_window"]),
        ("compiled in, s", report["compile_seconds"]),
    ]
    print(title)
    for label, value in rows:
        print(f"  {label:44}{'unknown' if value is None else value:>12}")


def _verdict(report: dict[str, Any], recipe: Recipe, step: str, topology: str, mesh: Mesh) -> str:
    difference = report["device_memory_gib"] - report["total_gib"]
    if report["fits"]:
        # Of a GPU's memory JAX takes three quarters unless it is told to take more.
        more = topology.startswith("h100") and report["total_gib"] > 0.75 * report["device_memory_gib"]
        return f"fits, with {difference:.2f} GiB to spare" + (
            "; set XLA_PYTHON_CLIENT_MEM_FRACTION=0.95" if more else ""
        )
    change = "; ".join(remedies(recipe, mesh, training=step == "train"))
    return f"does not fit: {-difference:.2f} GiB too much; {change}"
