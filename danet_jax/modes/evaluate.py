"""`--mode=evaluate`: computes the mIoU of a trained network, or compares several networks."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from danet_jax.classes import Classes
from danet_jax.errors import InputError
from danet_jax.evaluation.evaluator import Evaluator
from danet_jax.evaluation.result import Result, comparison_table
from danet_jax.inference.protocol import Protocol
from danet_jax.models.danet import DANet
from danet_jax.models.intermediates import learnt_scales, with_scales
from danet_jax.models.options import options_of
from danet_jax.modes.arguments import by_unique_name, find_network
from danet_jax.modes.prepare import recipe_dataset, refuse_differing_data, watch_examples
from danet_jax.ops.attention import check_backend_runs
from danet_jax.recipe import Recipe
from danet_jax.runs.directory import library_versions
from danet_jax.runs.terminal import print_table
from danet_jax.training.mesh import make_mesh
from danet_jax.weights.checkpoint import load_checkpoint


def run(
    recipe: Recipe,
    workdir: Path,
    arguments: list[str],
    *,
    checkpoint: str = "",
    ablate: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> int:
    """Evaluates the run in `workdir`, or `checkpoint`, on the recipe's validation split.

    The checkpoint determines the network, except for `overrides` (see `load_checkpoint`).

    Writes `evaluation.json` and `confusion.csv` into `workdir` and prints a table. With `arguments`, which are
    directories of runs, checkpoint files or names in the zoo, it evaluates each of them under the same protocol, prints
    one table, and writes their files into `workdir/comparison/NAME`.

    With `ablate`, one network is evaluated four times: as it is, and with alpha, beta and both set to 0, which removes
    the contribution of its attention modules. One table shows all results, and their files are written into
    `workdir/ablation/NAME`.
    """
    if arguments and ablate:
        raise InputError("--ablate is for one network: omit the checkpoints after the flags", what="--ablate")
    if arguments and checkpoint:
        raise InputError(
            "give either --checkpoint or checkpoints after the flags, not both", what="--checkpoint"
        )
    # Checkpoints are loaded before the data are prepared, which may take hours.
    load = functools.lru_cache(maxsize=1)(functools.partial(load_checkpoint, **(overrides or {})))
    networks = by_unique_name(arguments) if arguments else {"": find_network(workdir, checkpoint)}
    for path in networks.values():
        load(path).refuse_backbone(path)
    check_backend_runs(
        "config.model.attention_backend", recipe.model.attention_backend, jax.default_backend()
    )
    # Maps each name to the checkpoint, the scales that are set to 0, and the folder of the files.
    planned: dict[str, tuple[str | Path, tuple[str, ...], Path]] = {
        name: (path, (), workdir / "comparison" / name if name else workdir)
        for name, path in networks.items()
    }
    if ablate:
        planned = {
            name: (networks[""], without, workdir / "ablation" / name.replace(" ", "_"))
            for name, without in ablations(load(networks[""]).variables["params"]).items()
        }

    dataset = recipe_dataset(recipe, "validation_split")
    refuse_differing_data(dataset)
    split = recipe.dataset.validation_split
    source = dataset.source(split, labelled="dataset.validation_split")
    mesh = make_mesh(recipe.mesh.data, recipe.mesh.space)
    protocol = recipe.protocol()
    is_first_host = jax.process_index() == 0

    @functools.cache  # networks with the same options share their compiled programs
    def evaluator_of(network: DANet, protocol: Protocol) -> Evaluator:
        return Evaluator(network, dataset.classes, protocol, mesh)

    def evaluate(path: str | Path, without: tuple[str, ...]) -> tuple[Result, DANet]:
        found = load(path)
        network = found.network
        try:
            evaluator = evaluator_of(
                network, protocol.for_network(network.align_corners, found.mean, found.std, bits=found.bits)
            )
        except InputError as error:
            raise error.in_file(path) from error
        warning = found.classes and check_classes(
            path, found.classes, dataset.classes, recipe.dataset.classes_by_number
        )
        if is_first_host:
            if warning:
                print(f"warning: {path}, {warning}", file=sys.stderr)
            print(f"{path}: {found.description}; protocol {protocol.name}", file=sys.stderr)
        params = with_scales(found.variables["params"], dict.fromkeys(without, jnp.float32(0)))
        examples = watch_examples(source, split, bits=found.bits, workers=recipe.dataset.workers)
        return evaluator({**found.variables, "params": params}, examples), network

    results = {}
    for name, (path, without, folder) in planned.items():
        results[name], model = evaluate(path, without)
        if is_first_host:
            about = {
                "checkpoint": str(path),
                "dataset": recipe.dataset.name,
                "split": split,
                "config": recipe.as_dict() | {"model": options_of(model)},
                "versions": library_versions(),
            }
            results[name].write(folder, about)
    if is_first_host:
        _report(results, f"{recipe.dataset.name} {split}", workdir, ablate=ablate)
    return 0


def _report(results: dict[str, Result], title: str, workdir: Path, *, ablate: bool) -> None:
    """Prints the table and the location of the files."""
    print_table(comparison_table(results, f"{title}: what attention adds" if ablate else title))
    [(name, result), *others] = results.items()
    if ablate:
        lost = ", ".join(f"{other} {100 * (result.miou - r.miou):+.2f}" for other, r in others)
        print(f"points of mIoU lost: {lost}; {workdir / 'ablation'}")
    elif name:
        print(f"{workdir / 'comparison'}: evaluation.json and confusion.csv of each")
    else:
        print(f"mIoU {100 * result.miou:.2f} %: {workdir / 'evaluation.json'}, {workdir / 'confusion.csv'}")


def ablations(params: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Returns the variants that `--ablate` evaluates: names, and which of `alpha` and `beta` are set to 0.

    Raises:
      InputError: the network has no attention module.
    """
    scales = tuple(learnt_scales(params))
    if not scales:
        raise InputError("--ablate: the network has no attention module", what="--ablate")
    both = {"alpha and beta 0": scales} if len(scales) == 2 else {}
    return {"as trained": (), **{f"{name} 0": (name,) for name in scales}, **both}


def check_classes(path: str | Path, network: Classes, data: Classes, by_number: bool) -> str:
    """Compares the names of a network's classes with the data's; returns a warning about names that differ, or "".

    Case, spaces and punctuation are ignored.

    Raises:
      InputError: the network has the data's classes in another order; or most names differ, and `by_number`, which
        states that the same numbers mean the same classes, is False.
    """

    def letters(name: str) -> str:
        return "".join(character for character in name.casefold() if character.isalnum())

    pairs = list(zip(network.names, data.names, strict=False))
    differing = [index for index, (one, other) in enumerate(pairs) if letters(one) != letters(other)]
    if not differing:
        return ""
    if sorted(network.names) == sorted(data.names):
        raise InputError.for_file(
            path,
            f"its classes are those of the data in another order ({', '.join(network.names[:4])}, ... "
            f"instead of {', '.join(data.names[:4])}, ...); reorder the data's classes",
        )
    index = differing[0]
    warning = (
        f"{len(differing)} of {len(pairs)} classes have other names than in the data: class {index} is "
        f"{network.names[index]!r} for the network and {data.names[index]!r} in the data"
    )
    if len(differing) > len(pairs) / 2 and not by_number:
        raise InputError.for_file(
            path,
            f"{warning}; if the same numbers mean the same classes, set "
            "--config.dataset.classes_by_number=True",
        )
    return warning
