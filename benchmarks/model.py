"""Compares the forward pass and the training step of the whole network with PyTorch on the same cores.

    python -m benchmarks.model [--backbone resnet50] [--size 256] [--batch 2] [--repeats 5]

Each framework runs in a process of its own, several times in turns, in float32 with the same weights. The table shows
the best times, their ratio (above 1, danet_jax is faster) and the difference of the logits.
"""

import argparse
import json
import sys
import time

from benchmarks.measuring import in_own_process

CLASSES = 19


def best(function, repeats):
    """Returns the seconds of the fastest of `repeats` calls, after one that is not counted."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def make_data(options):
    """Returns the reference network with random weights, and a batch, which are the same for both frameworks."""
    import numpy as np

    from tests.reference import torch_danet

    rng = np.random.default_rng(0)
    reference = torch_danet.DANet(CLASSES, backbone=options.backbone, multi_grid=(4, 8, 16), dropout_rate=0.0)
    torch_danet.randomise(reference, rng)
    shape = (options.batch, options.size, options.size)
    return reference, rng.integers(0, 256, (*shape, 3), np.uint8), rng.integers(0, CLASSES, shape)


def measure_torch(options):
    """Returns the times and logits of PyTorch."""
    import numpy as np
    import torch
    import torch.nn.functional as F

    from danet_jax.ops.normalize import normalize

    reference, images, labels = make_data(options)
    x = torch.tensor(np.array(normalize(images))).permute(0, 3, 1, 2).contiguous()
    y = torch.from_numpy(labels)
    optimizer = torch.optim.SGD(reference.parameters(), lr=1e-6, momentum=0.9, weight_decay=1e-4)

    def forward():
        with torch.no_grad():
            return reference(x)[0]

    logits = forward().permute(0, 2, 3, 1).numpy()
    result = {"forward": best(forward, options.repeats), "logits": logits[:, ::16, ::16].ravel().tolist()}
    reference.train()

    def step():
        optimizer.zero_grad()
        sum(F.cross_entropy(z, y) for z in reference(x) if z is not None).backward()
        optimizer.step()

    return result | {"training step": best(step, options.repeats)}


def measure_jax(options):
    """Returns the times and logits of danet_jax."""
    import jax
    import numpy as np

    from danet_jax import DANet, normalize
    from danet_jax.training.mesh import make_mesh
    from danet_jax.training.optimizer import poly_schedule, sgd
    from danet_jax.training.state import create_state, make_train_step
    from danet_jax.weights.convert import convert

    reference, images, labels = make_data(options)
    variables = convert({name: tensor.numpy() for name, tensor in reference.state_dict().items()}).variables
    variables = jax.tree.map(jax.numpy.asarray, variables)
    model = DANet(CLASSES, backbone=options.backbone, multi_grid=(4, 8, 16), dropout_rate=0.0)
    apply = jax.jit(lambda v, x: model.apply(v, normalize(x)).fusion)

    def forward():
        return apply(variables, images).block_until_ready()

    logits = np.asarray(forward())
    result = {"forward": best(forward, options.repeats), "logits": logits[:, ::16, ::16].ravel().tolist()}
    optimizer = sgd(poly_schedule(1e-6, 1000))
    state = create_state(model, optimizer, 0, make_mesh()).replace(**variables)
    train_step = make_train_step(model, optimizer)
    batch = {"image": images, "label": labels.astype(np.uint8)}
    holder = [state]

    def step():
        holder[0], metrics = train_step(holder[0], batch)
        metrics["loss"].block_until_ready()

    return result | {"training step": best(step, options.repeats)}


def main():
    """Runs both frameworks in turn and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", choices=["torch", "jax"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        result = measure_torch(options) if options.only == "torch" else measure_jax(options)
        print(json.dumps(result))
        return
    results = {"torch": [], "jax": []}
    for _ in range(options.rounds):
        for framework in results:
            results[framework].append(in_own_process(__file__, *sys.argv[1:], "--only", framework))
    print(f"{options.backbone} DANet, {options.size}x{options.size}, batch {options.batch}, float32")
    print(f"{'':15}{'torch':>10}{'danet_jax':>12}{'torch / ours':>15}")
    for name in ("forward", "training step"):
        theirs, ours = (min(result[name] for result in results[f]) for f in ("torch", "jax"))
        print(f"{name:15}{theirs:9.3f}s{ours:11.3f}s{theirs / ours:15.2f}")
    theirs, ours = results["torch"][0]["logits"], results["jax"][0]["logits"]
    difference = max(abs(a - b) for a, b in zip(theirs, ours, strict=True)) / max(map(abs, theirs))
    print(f"largest difference of logits, relative: {difference:.1e}")


if __name__ == "__main__":
    main()
