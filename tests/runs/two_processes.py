"""One of two processes, with two devices each, that read and write one checkpoint; run by test_checkpoints.py."""

import os
import pathlib
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np

from danet_jax.runs.checkpoints import Checkpoints
from tests.runs.test_checkpoints import DESCRIPTION, laid_out


def main(folder: pathlib.Path, address: str, process: int) -> None:
    jax.distributed.initialize(address, 2, process)
    values = dict(np.load(folder / "values.npz"))
    devices = np.reshape(jax.devices(), (4, 1))
    progress = laid_out({"step": np.asarray(3, np.int32)}, devices)
    like = laid_out({name: np.zeros_like(value) for name, value in values.items()}, devices)
    with Checkpoints(folder / "checkpoints") as checkpoints:
        restored = checkpoints.restore(like, progress, DESCRIPTION)
        for name, value in restored.variables.items():
            for shard in value.addressable_shards:
                np.testing.assert_array_equal(shard.data, values[name][shard.index])
        checkpoints.save(2, restored.variables, progress, {"examples_taken": 2}, DESCRIPTION)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
