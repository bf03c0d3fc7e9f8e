"""Time to import the network beside that of JAX and Flax alone.

    python -m benchmarks.import_time [--rounds 5]

Each in a process of its own, in turns; the table has the best times. `import danet_jax` alone loads neither, since
what it exports is imported when it is first used.
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
    """Imports in turns, prints the table."""
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
