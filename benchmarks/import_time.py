"""Compares the time to import the network with that to import only JAX and Flax.

    python -m benchmarks.import_time [--rounds 5]

Each import runs in a process of its own, in turns, and the table shows the best times. `import danet_jax` alone imports
neither JAX nor Flax, since its public names are imported when they are first used.
"""

import argparse
import subprocess
import sys
import time

IMPORTS = {
    "python alone": "pass",
    "jax, flax.linen": "import jax, flax.linen",
    "danet_jax": "import danet_jax",
    "danet_jax, DANet": "import danet_jax; danet_jax.DANet",
}


def main():
    """Measures the imports in turns, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    best = dict.fromkeys(IMPORTS, float("inf"))
    for _ in range(options.rounds):
        for name, statement in IMPORTS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True)
            best[name] = min(best[name], time.perf_counter() - start)
    print(f"{'':20}{'seconds':>10}{'beside jax, flax':>20}")
    for name, seconds in best.items():
        print(f"{name:20}{seconds:10.2f}{seconds / best['jax, flax.linen']:20.2f}")


if __name__ == "__main__":
    main()
