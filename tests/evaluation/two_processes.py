"""One of two processes that evaluate together, with two devices each; run by test_processes.py."""

import json
import os
import pathlib
import sys

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


def main(seed: int, address: str, process: int, processes: int, output: str) -> None:
    if processes > 1:
        jax.distributed.initialize(address, processes, process)
    rng = np.random.default_rng(seed)
    model, variables, _ = small_networks(rng)
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()).reshape(-1, 1), ("data", "space"))
    # As the training loop keeps them: one array over all hosts, the same everywhere.
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    variables = jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(replicated, x, x.shape), variables
    )
    everything = list(examples(rng))
    results = {}
    for protocol in PROTOCOLS:
        evaluate = Evaluator(model, Classes.named(list("abcde")), protocol, mesh)
        result = evaluate(variables, everything[process::processes])
        results[protocol.name] = [result.images, result.confusion.tolist()]
    pathlib.Path(output).write_text(json.dumps(results))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
