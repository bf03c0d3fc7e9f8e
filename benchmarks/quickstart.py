"""Reports the mIoU of the quickstart and the time that it takes, with and without attention.

    python -m benchmarks.quickstart [--workdir build/quickstart] [FLAGS]

It trains and evaluates `configs/quickstart.py` as DANet and then as the dilated FCN, with `run.py` as a user would.
FLAGS such as --config.training.steps=20 are passed on. Each run takes minutes. Runs that are complete in `--workdir`
are only evaluated.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[1]
NETWORKS = ("danet", "fcn")


def main():
    """Trains both networks, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("build/quickstart"))
    options, flags = parser.parse_known_args()
    rows = []
    for name in NETWORKS:
        workdir = options.workdir / name
        recipe = f"--config={ROOT / 'configs/quickstart.py'}:{name}"
        command = [sys.executable, ROOT / "run.py", recipe, f"--workdir={workdir}", *flags]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=sys.stderr)
        trained = time.perf_counter()
        subprocess.run([*command, "--mode=evaluate"], check=True, stdout=sys.stderr)
        result = json.loads((workdir / "evaluation.json").read_text())
        rows.append((name, trained - start, time.perf_counter() - trained, result["miou"]))
    print(f"{'':8}{'training, s':>14}{'evaluation, s':>16}{'mIoU':>10}")
    for name, training, evaluation, miou in rows:
        print(f"{name:8}{training:14.0f}{evaluation:16.0f}{miou:10.4f}")


if __name__ == "__main__":
    main()
