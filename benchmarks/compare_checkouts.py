"""Compares this checkout with another one: numbers, labels, formats, files and exit statuses, but not text.

    git worktree add ../before COMMIT
    python -m benchmarks.compare_checkouts --base=../before [--only=networks,labels,...] [--quick]

Each checkout computes the same facts (`benchmarks/checkout_facts.py`) in a process of its own, on CPU, from the same
inputs and in folders of the same name. Both share one cache of compiled programs, so that only programs that differ
are compiled twice. Arrays must be equal bit for bit. A table and every difference are printed, and the exit status is 1
if `INTENDED` does not list one of them. --quick leaves out the slower half and takes about two minutes on idle cores.
"""

import argparse
import collections
import os
import pathlib
import pickle
import re
import shutil
import subprocess
import sys
import tempfile

import numpy as np

from benchmarks.checkout_facts import PARTS, write_photos

ROOT = pathlib.Path(__file__).parents[1]

INTENDED = {
    # Maps names of facts (regular expressions) to the reasons why they may differ from those of 0.2.0.
    r"compile .*/(traffic_gb|collective_gb|collectives.*|widest_convolution_window)$": "only tests read program texts",
    r"compile .*/bytes_accessed_gb$": "XLA's own count in place of traffic_gb",
    r"config(\.json)?/init/(source|checkpoint)$": "init.source is called init.checkpoint",
    r"/dataset/options/unlabelled$": "an option of polygons, which are new",
    r"/data\.json(/|$)|/parameters\.txt$|/prepared/folder/[\w-]+\.json$": "new files",
    r"^networks: .*/(queries|keys)/0$": "init returns params and batch_stats only",
    r"^exports: .*/danet_jax(\.crc32)?$": "the description contains the renamed and the new option",
    r"^modes: (explore photo|predict photos)/.*/photo8(_2)?[._]": "two inputs never share an output file",
    r"^modes: train again/": "a finished training is reported and writes nothing",
}

SHOWN = 100
"""The maximum number of differences that are printed for each part."""


def compute(checkout, parts, folder, quick):
    """Returns the facts of a checkout, computed in a process of its own whose working directory is `folder`."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(folder.with_name("compiled"))}
    if quick:  # compiling takes most of the time
        environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    script, output = ROOT / "benchmarks/checkout_facts.py", folder.with_name("facts")
    command = [sys.executable, "-P", script, checkout, ",".join(parts), output, *["quick"] * quick]
    subprocess.run(command, env=environment, cwd=folder, check=True, stdout=sys.stderr)
    return pickle.loads(output.read_bytes())


def differences(base, here):
    """Returns the names of the facts that differ, and how they differ."""
    found = {}
    for name in sorted(base.keys() | here.keys()):
        one, other = (facts.get(name, "absent") for facts in (base, here))
        arrays = [isinstance(x, np.ndarray) for x in (one, other)]
        if all(arrays):
            if (one.dtype, one.shape) != (other.dtype, other.shape):
                found[name] = f"{one.dtype} {one.shape} -> {other.dtype} {other.shape}"
            elif one.tobytes() != other.tobytes():
                distance = np.abs(one.astype(np.float64) - other.astype(np.float64)).max()
                found[name] = f"{(one != other).mean():.2%} of the values differ, at most by {distance:.3g}"
        elif any(arrays) or one != other:
            found[name] = " -> ".join(" ".join(str(x).split())[:120] for x in (one, other))
    return found


def show(base, here):
    """Prints the table and the differences, and returns the exit status."""
    found = differences(base, here)
    intended = {name: why for name in found for pattern, why in INTENDED.items() if re.search(pattern, name)}
    counts, shown = collections.defaultdict(collections.Counter), []
    for name in sorted(base.keys() | here.keys()):
        part = name.partition(":")[0]
        kind = "intended" if name in intended else "different" if name in found else "equal"
        counts[part][kind] += 1
        if kind == "intended" or (kind == "different" and counts[part][kind] <= SHOWN):
            shown.append(
                f"{kind}  {name}: {found[name]}" + (f" ({intended[name]})" if name in intended else "")
            )
    failures = [f"{name} ({where}): {facts[name]}" for where, facts in (("base", base), ("here", here))
                for name in facts if name.endswith(": failure")]  # fmt: skip
    print(*shown, *failures, sep="\n")
    print(f"\n{'':12}{'equal':>10}{'intended':>10}{'different':>10}")
    for part, of_it in counts.items():
        print(f"{part:12}{of_it['equal']:10}{of_it['intended']:10}{of_it['different']:10}")
    return 1 if failures or found.keys() - intended.keys() else 0


def main():
    """Computes the facts of both checkouts and compares them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--base", type=pathlib.Path, required=True, help="the other checkout")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    parser.add_argument("--quick", action="store_true", help="leave out the slower half")
    options = parser.parse_args()
    parts = options.only.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--only={','.join(unknown)} does not exist; there are: {', '.join(PARTS)}")
    facts = []
    with tempfile.TemporaryDirectory(prefix="compare_checkouts") as work:
        folder, kept = pathlib.Path(work, "now"), pathlib.Path(work, "kept")
        write_photos(kept / "photos")
        for checkout in (options.base.resolve(), ROOT):
            if "stored" in parts and not facts:
                shutil.copytree(kept, folder)
                compute(checkout, ["make_stored"], folder, options.quick)
                folder.rename(kept.with_name("made"))
                kept = kept.with_name("made")
            shutil.copytree(kept, folder)
            facts.append(compute(checkout, parts, folder, options.quick))
            shutil.rmtree(folder)
    return show(*facts)


if __name__ == "__main__":
    sys.exit(main())
