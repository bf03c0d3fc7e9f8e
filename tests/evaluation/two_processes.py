"""One of two processes that evaluate together, with two devices each; run by test_processes.py."""

import json
import os
import pathlib
import sys

if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
    os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np

from danet_jax.classes import Classes
from danet_jax.evaluation.evaluator import Evaluator
from danet_jax.inference.protocol import Protocol
from tests.reference.small_network import small_networks

PROTOCOLS = (
    Protocol.whole(),
    Protocol.authors().replace(base_size=70, window=(48, 48), stride=(32, 32)),
)


def examples(rng):
    for index in range(7):
        label = rng.integers(0, 5, (40, 56), dtype=np.uint8)
        label[rng.random(label.shape) < 0.1] = 255
        image = rng.integers(0, 256, (40, 56, 3), dtype=np.uint8)
        yield {"name": str(index), "image": image, "label": label}


def evaluate(seed, process=0, processes=1):
    """Returns the number of images and the confusion matrix by protocol; each process takes its share of the images."""
    rng = np.random.default_rng(seed)
    model, variables, _ = small_networks(rng)
    devices = jax.devices()[:2] if processes == 1 else jax.devices()
    mesh = jax.sharding.Mesh(np.asarray(devices).reshape(-1, 1), ("data", "space"))
    # As in the training loop: one array over all hosts, the same everywhere.
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    variables = jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(replicated, x, x.shape), variables
    )
    share = list(examples(rng))[process::processes]
    results = {}
    for protocol in PROTOCOLS:
        result = Evaluator(model, Classes.named(list("abcde")), protocol, mesh)(variables, share)
        results[protocol.name] = [result.images, result.confusion.tolist()]
    return results


if __name__ == "__main__":
    seed, address, process, output = sys.argv[1:]
    jax.distributed.initialize(address, 2, int(process))
    pathlib.Path(output).write_text(json.dumps(evaluate(int(seed), int(process), 2)))
