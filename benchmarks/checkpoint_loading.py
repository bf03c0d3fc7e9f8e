"""Compares with PyTorch the time and memory from a PyTorch checkpoint on disk to a network that is ready to predict.

    python -m benchmarks.checkpoint_loading [--backbone resnet101] [--size 129] [--rounds 3]

The file is a DANet with random weights in the authors' layout, saved as they save it: with the optimizer's state, which
is as large as the weights. Each framework loads it in a process of its own. "import" is the time to import the
libraries, "load" the time from the file to a network with these weights, and "first" the time for the first label map
of one image, including compilation if there is any. Memory is the peak of the whole process, with and without the file,
which the loader maps and the system can reclaim at any time.
"""

import argparse
import json
import pathlib
import sys
import tempfile
import threading
import time

from benchmarks.measuring import in_own_process

CLASSES = 19
FRAMEWORKS = ("torch", "jax")


def write_checkpoint(path, backbone):
    """Writes what the authors' training saves after an epoch."""
    import numpy as np
    import torch

    from tests.reference import torch_danet

    network = torch_danet.DANet(CLASSES, backbone=backbone, imagenet_classifier=True)
    torch_danet.randomise(network, np.random.default_rng(0))
    momentum = {i: {"momentum_buffer": torch.zeros_like(p)} for i, p in enumerate(network.parameters())}
    content = {
        "epoch": 1,
        "state_dict": network.state_dict(),
        "optimizer": {"state": momentum},
        "best_pred": 0.0,
    }
    torch.save(content, path)


def watch_memory():
    """Starts to watch this process; returns a function that returns the peaks in MiB with and without files."""
    peaks = {"VmRSS": 0, "RssAnon": 0}

    def look():
        while True:
            for line in pathlib.Path("/proc/self/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in peaks:
                    peaks[name] = max(peaks[name], int(value.split()[0]) // 1024)
            time.sleep(0.005)

    threading.Thread(target=look, daemon=True).start()
    return lambda: dict(peaks)


def measure_torch(path, options):
    """Measures the usual steps in PyTorch: build the network, read the file, and copy the weights into the network."""
    start = time.perf_counter()
    import torch

    from tests.reference import torch_danet

    imported = time.perf_counter()
    network = torch_danet.DANet(CLASSES, backbone=options.backbone, imagenet_classifier=True)
    network.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    network.eval()
    loaded = time.perf_counter()
    with torch.no_grad():
        network(torch.zeros(1, 3, options.size, options.size))[0].argmax(1)
    return imported - start, loaded - imported, time.perf_counter() - loaded


def measure_jax(path, options):
    """Measures `load_checkpoint` and a segmenter."""
    start = time.perf_counter()
    import numpy as np
    import torch  # noqa: F401, needed to read the file

    from danet_jax import Segmenter, load_checkpoint

    imported = time.perf_counter()
    checkpoint = load_checkpoint(path, multi_grid=None)
    segmenter = Segmenter(checkpoint.model, checkpoint.variables)
    loaded = time.perf_counter()
    segmenter(np.zeros((1, options.size, options.size, 3), np.uint8))
    return imported - start, loaded - imported, time.perf_counter() - loaded


def main():
    """Writes the file, loads it in turns, and prints the table of the best times and the smallest peaks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backbone", default="resnet101")
    parser.add_argument("--size", type=int, default=129)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=FRAMEWORKS, help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        peaks = watch_memory()
        measure = {"torch": measure_torch, "jax": measure_jax}[options.only]
        times = measure(options.file, options)
        time.sleep(0.02)
        print(json.dumps({**dict(zip(("import", "load", "first"), times, strict=True)), **peaks()}))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "model.pth.tar")
        write_checkpoint(file, options.backbone)
        size = file.stat().st_size / 2**20
        results = {framework: [] for framework in FRAMEWORKS}
        for _ in range(options.rounds):
            for framework in FRAMEWORKS:
                arguments = *sys.argv[1:], "--only", framework, "--file", str(file)
                results[framework].append(in_own_process(__file__, *arguments))
    print(f"{options.backbone} DANet, file of {size:.0f} MiB, first image {options.size}x{options.size}")
    print(f"{'':24}{'torch':>10}{'danet_jax':>12}")
    rows = {
        "import, s": "import",
        "load, s": "load",
        "first label map, s": "first",
        "peak memory, MiB": "VmRSS",
        "  without the file, MiB": "RssAnon",
    }
    for title, key in rows.items():
        theirs, ours = (min(result[key] for result in results[f]) for f in FRAMEWORKS)
        digits = 0 if "MiB" in title else 2
        print(f"{title:24}{theirs:10.{digits}f}{ours:12.{digits}f}")


if __name__ == "__main__":
    main()
