"""Compares the time and memory of the loss at full resolution, with gradients, with the plain form and with PyTorch.

    python -m benchmarks.loss [--batch 2] [--repeats 5]

The loss is the sum of the cross-entropies of a DANet's three logits (fusion, position, channel), which have an eighth
of the labels' size. Gradients are with respect to the logits. The forms are:

  ours    danet_jax.training.losses.multi_loss: 32 rows at a time
  plain   resize_bilinear to full resolution, then a cross-entropy, in JAX
  torch   interpolate(align_corners=True), then cross_entropy, as the authors do

For JAX, scratch memory is what the compiler reserves in addition to arguments and results. For torch, it is the peak
growth of the process (CPU) or of the allocator (GPU), including the results.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from benchmarks.measuring import seconds, torch_scratch

CASES = ((19, 256), (19, 768), (150, 512), (171, 512))
"""The number of classes and the crop size of a small case, Cityscapes, ADE20K and COCO Stuff."""


def inputs(batch: int, classes: int, size: int) -> tuple[list[Any], Any]:
    import numpy as np

    rng = np.random.default_rng(0)
    shape = batch, -(-size // 8), -(-size // 8), classes
    logits = [rng.standard_normal(shape, np.float32) for _ in range(3)]
    labels = rng.integers(0, classes, (batch, size, size), dtype=np.uint8)
    labels[rng.random(labels.shape) < 0.1] = 255
    return logits, labels


def jax_form(form: str, *shape: int) -> tuple[Callable[[], Any], float]:
    """Returns a function that computes value and gradient, and its scratch memory in MiB."""
    import jax
    import jax.numpy as jnp
    import optax

    from danet_jax.models.danet import Logits
    from danet_jax.ops.resize import resize_bilinear
    from danet_jax.training.losses import multi_loss, valid_pixels

    def ours(logits: Any, labels: Any) -> Any:
        return multi_loss(Logits(*logits), labels, valid_pixels(labels), align_corners=True)[0]

    def plain(logits: Any, labels: Any) -> Any:
        valid = labels != 255
        total = 0.0
        for x in logits:
            up = resize_bilinear(x, labels.shape[1:], align_corners=True)
            loss = optax.softmax_cross_entropy_with_integer_labels(up, jnp.where(valid, labels, 0))
            total += jnp.sum(jnp.where(valid, loss, 0.0)) / valid.sum()
        return total

    arrays = jax.tree.map(jnp.asarray, inputs(*shape))
    function = jax.jit(jax.value_and_grad({"ours": ours, "plain": plain}[form]))
    compiled = function.lower(*arrays).compile()
    scratch = compiled.memory_analysis().temp_size_in_bytes / 2**20
    return lambda: jax.block_until_ready(compiled(*arrays)), scratch


def torch_form(*shape: int) -> Callable[[], Any]:
    import torch
    import torch.nn.functional as functional

    device = "cuda" if torch.cuda.is_available() else "cpu"
    logits, labels = inputs(*shape)
    leaves = [torch.tensor(x).permute(0, 3, 1, 2).contiguous().to(device).requires_grad_() for x in logits]
    target = torch.tensor(labels, dtype=torch.int64, device=device)

    def run() -> Any:
        total = 0
        for x in leaves:
            x.grad = None
            up = functional.interpolate(x, target.shape[1:], mode="bilinear", align_corners=True)
            total = total + functional.cross_entropy(up, target, ignore_index=255)
        total.backward()
        if device == "cuda":
            torch.cuda.synchronize()
        return total.item(), [x.grad.permute(0, 2, 3, 1).cpu().numpy() for x in leaves]

    return run


def difference(ours: Any, theirs: Any) -> float:
    """Returns the larger of the relative differences of value and gradients."""
    import numpy as np

    value = abs(float(ours[0]) - theirs[0]) / abs(theirs[0])
    return max(
        value, *(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(ours[1], theirs[1], strict=True))
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    import jax

    print(f"{jax.devices()[0].device_kind}, batch {options.batch}, float32\n")
    print("| classes | size | form | seconds | torch / form | scratch MiB | difference from torch |")
    print("|---|---|---|---|---|---|---|")
    for classes, size in CASES:
        shape = options.batch, classes, size
        runs: dict[str, Callable[[], Any]] = {}
        scratch: dict[str, float] = {}
        for form in ("ours", "plain"):
            runs[form], scratch[form] = jax_form(form, *shape)
        runs["torch"], scratch["torch"] = torch_form(*shape), torch_scratch(torch_form, *shape)
        expected = runs["torch"]()
        best = seconds(runs, options.repeats)
        for form, run in runs.items():
            error = f"{difference(run(), expected):.0e}" if form != "torch" else "-"
            print(
                f"| {classes} | {size} | {form} | {best[form]:.3f} | {best['torch'] / best[form]:.2f} "
                f"| {scratch[form]:.0f} | {error} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
