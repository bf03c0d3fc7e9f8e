"""`--mode=compile`: compiles a program for an accelerator that is not present, and reports what it would need."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from danet_jax.errors import InputError
from danet_jax.inference.predictor import LABELS
from danet_jax.inference.protocol import Protocol
from danet_jax.inference.whole_images import WholeImages
from danet_jax.models.danet import DANet
from danet_jax.modes.arguments import read_size
from danet_jax.modes.memory import GIB, memory_of, remedies
from danet_jax.modes.prepare import recipe_builder
from danet_jax.modes.train import training_step
from danet_jax.ops.normalize import normalize
from danet_jax.recipe import Recipe
from danet_jax.runs.directory import library_versions
from danet_jax.runs.files import write_json, write_text
from danet_jax.runs.terminal import shown
from danet_jax.training.mesh import make_mesh, refuse_indivisible
from danet_jax.training.topologies import EXAMPLES, count_flops, find_topology

STEPS = ("train", "predict")

Program = tuple[Any, Any, tuple[Any, Any]]
"""The function that is compiled, a function of the same inputs whose operations are counted, and the shapes and
shardings of the inputs."""


def run(
    recipe: Recipe, workdir: Path, arguments: list[str], *, topology: str = "", step: str = "train"
) -> int:
    """Compiles a step of the recipe for `topology` and writes `compile/NAME.hlo` and `compile/NAME.json`.

    Nothing is trained, and no data are required. An argument HEIGHTxWIDTH is the image size; the default is the crop
    size. Returns 0 if the program fits into the memory of the devices, and 1 otherwise.
    """
    if step not in STEPS:
        raise InputError.for_value("--step", step, f"does not exist; there are: {', '.join(STEPS)}", STEPS)
    if not topology:
        raise InputError(
            f"--mode=compile needs --topology=NAME, for example: {EXAMPLES}",
            what="--topology",
            allowed=EXAMPLES,
        )
    jax.config.update("jax_platforms", "cpu")  # leave this machine's devices to other programs
    size = read_size(arguments, "compile") or (recipe.dataset.crop_size,) * 2
    found = find_topology(topology)
    platform = found.devices[0].platform
    mesh = make_mesh(recipe.mesh.data, recipe.mesh.space, found.devices)
    training = step == "train"
    for side in size[:1] if training else (size[0], recipe.dataset.crop_size):
        refuse_indivisible(
            mesh,
            batch_size=recipe.training.batch_size if training else mesh.shape["data"],
            accumulation=recipe.training.accumulation if training else 1,
            crop_size=side,
        )
    model = recipe.network(_number_of_classes(recipe))
    function, counted, inputs = (_training if training else _prediction)(recipe, model, mesh, size)
    options = found.compiler_options
    if not training and platform in ("cuda", "gpu"):
        # Without timing kernels, Triton finds no tiles for the products that resize logits to the size of an image.
        options = options | {"xla_gpu_enable_triton_gemm": False}

    file = workdir / "compile" / f"{topology if training else f'{topology}-{step}'}.json"
    compiled, required = None, 0
    started = time.perf_counter()
    try:
        with shown(f"compiling the {step} step for {topology}"):
            compiled = function.trace(*inputs).lower().compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        required = required_memory(error, topology)  # a TPU's compiler fails if the memory does not suffice
    seconds = time.perf_counter() - started
    memory = memory_of(compiled) if compiled else None
    total = memory.total if memory else required
    analysis: Any = compiled.cost_analysis() if compiled else None
    accessed = (analysis or {}).get("bytes accessed")
    report = {
        "devices": mesh.size,
        "mesh": dict(mesh.shape),
        # These are None if a compiler fails and therefore does not report them.
        "scratch_gib": memory and round(memory.scratch / GIB, 3),
        "arguments_gib": memory and round(memory.arguments / GIB, 3),
        "output_gib": memory and round(memory.output / GIB, 3),
        "total_gib": round(total / GIB, 3),
        "device_memory_gib": round(found.memory / GIB, 3),
        "fits": memory is not None and total <= found.memory,
        "flops": _flops(counted, inputs, platform, mesh.size),
        "bytes_accessed_gb": None if accessed is None else round(accessed / 1e9, 3),
        "compile_seconds": round(seconds, 1) if compiled else 0.0,
        "versions": library_versions(),
    }
    program = file.with_suffix(".hlo")
    if text := compiled and compiled.as_text():
        write_text(program, text)
    else:
        program.unlink(missing_ok=True)
    write_json(file, report)
    images = jax.tree.leaves(inputs[1])[0].shape[0]
    print(
        f"{recipe.model.backbone}, {recipe.model.dtype}, {step} step, {images} x {size[0]}x{size[1]}, on {topology} "
        f"(data {mesh.shape['data']} x space {mesh.shape['space']})"
    )
    _print(report)
    print(_verdict(report, recipe, step, topology, mesh), file, sep="\n")
    return 0 if report["fits"] else 1


def _training(recipe: Recipe, model: DANet, mesh: Mesh, size: tuple[int, int]) -> Program:
    """Returns the train step of `--mode=train`, for its state and a batch."""
    made = training_step(recipe, model, recipe.training.steps or 1000)
    state = jax.eval_shape(lambda: made.fresh_state(mesh))
    shape = (recipe.training.batch_size, *size)
    batch = {
        "image": jax.ShapeDtypeStruct((*shape, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct(shape, jnp.uint8),
    }
    return made.step, made.step, (_placed(state, mesh), _placed(batch, mesh, "data", "space"))


def _prediction(recipe: Recipe, model: DANet, mesh: Mesh, size: tuple[int, int]) -> Program:
    """Returns the function from 8-bit images to labels of a `Segmenter` for whole images, at its batch size."""
    state = jax.eval_shape(lambda: training_step(recipe, model, 1).fresh_state(mesh))
    mean, std = recipe.protocol().normalisation
    whole = WholeImages(model, Protocol.whole().for_network(model.align_corners, mean, std), mesh)
    inputs = whole.inputs(whole.group(*size), [])

    def predict(variables: Any, images: jax.Array) -> jax.Array:
        return whole.program(variables, inputs._replace(images=images), reduction=LABELS)

    def network(variables: Any, images: jax.Array) -> Any:
        return model.apply(variables, normalize(images, mean, std), upsample=False)

    placed = (_placed(state.variables, mesh), _placed(inputs.images, mesh, "data"))
    return jax.jit(predict), jax.jit(network), placed


def _placed(tree: Any, mesh: Mesh, *axes: str) -> Any:
    """Returns the shapes of a tree of arrays, with their first dimensions sharded over axes of the mesh."""
    sharding = NamedSharding(mesh, PartitionSpec(*axes))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def _number_of_classes(recipe: Recipe) -> int:
    """Returns the data set's number of classes, or 19, as in Cityscapes, for a `folder` whose classes are unknown."""
    data = recipe.dataset
    try:
        return len(recipe_builder(recipe).classes)
    except InputError as error:
        if data.name != "folder":
            raise
        classes = len(data.class_names) or 19
        print(f"{error}; compiling for {classes} classes")
        return classes


def _flops(function: Any, inputs: Any, platform: str, devices: int) -> float | None:
    """Returns the number of operations per device, or None if it is unknown."""
    # JAX counts operations only for backends that are present, so the function is lowered again without devices.
    anywhere = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), inputs)
    platform = "cuda" if platform == "gpu" else platform
    flops = count_flops(function.trace(*anywhere).lower(lowering_platforms=(platform,)))
    return None if flops is None else flops / devices


def required_memory(error: Exception, topology: str) -> int:
    """Returns the bytes that a program needs if the compiler's error is that they do not fit.

    Raises:
      InputError: the compiler refuses the program for another reason.
    """
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
    rows = {
        "arguments (weights, optimizer, batch), GiB": report["arguments_gib"],
        "results that do not replace arguments, GiB": report["output_gib"],
        "scratch, GiB": report["scratch_gib"],
        "total per device, GiB": report["total_gib"],
        "memory of a device, GiB": report["device_memory_gib"],
        "floating-point operations per device, GFLOP": report["flops"] and round(report["flops"] / 1e9, 1),
        "bytes accessed per device, GB": report["bytes_accessed_gb"],
        "compilation, s": report["compile_seconds"],
    }
    for label, value in rows.items():
        print(f"  {label:44}{'unknown' if value is None else value:>12}")


def _verdict(report: dict[str, Any], recipe: Recipe, step: str, topology: str, mesh: Mesh) -> str:
    difference = report["device_memory_gib"] - report["total_gib"]
    if not report["fits"]:
        change = "; ".join(remedies(recipe, mesh, training=step == "train"))
        return f"does not fit: {-difference:.2f} GiB are missing; {change}"
    # JAX allocates three quarters of a GPU's memory unless XLA_PYTHON_CLIENT_MEM_FRACTION is set.
    more = topology.startswith("h100") and report["total_gib"] > 0.75 * report["device_memory_gib"]
    hint = "; set XLA_PYTHON_CLIENT_MEM_FRACTION=0.95" if more else ""
    return f"fits, with {difference:.2f} GiB to spare{hint}"
