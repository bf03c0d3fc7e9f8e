"""Reproduces the paper's table 1 on freely available data: what each attention module adds.

    python -m benchmarks.table1 [--data far_scenes] [--rows fcn pam cam danet] [--seeds 3] [--workdir DIR] [FLAGS]

It trains and evaluates a network for each row and seed with `run.py` as a user would, with `configs/far_scenes.py` (in
the budget of the quickstart) or `configs/camvid.py` (ResNet-18, 1,200 steps; give --config.dataset.root=... and
--config.init.checkpoint=...). Each run takes minutes. FLAGS such as --config.training.steps=20 are passed on. A second
call resumes where the first was stopped, and only adds what is missing. After every run, WORKDIR/DATA.json is written,
and its Markdown table in WORKDIR/DATA.md.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[1]

_OFF = {
    "position": "--config.model.position_attention=False",
    "channel": "--config.model.channel_attention=False",
}
_PAPERS_SIGN = "--config.model.channel_energy=paper"

# Maps each row to its name in the table, the variant of configs/far_scenes.py, and the flags that derive it from
# configs/camvid.py, where attention has the paper's initial values, so that `paper` equals `danet`.
ROWS = {
    "fcn": ("Dilated FCN", "fcn", (_OFF["position"], _OFF["channel"])),
    "pam": ("+ position attention", "pam", (_OFF["channel"],)),
    "cam": ("+ channel attention", "cam", (_OFF["position"],)),
    "cam_paper": ("+ channel attention, the paper's sign", "cam", (_OFF["position"], _PAPERS_SIGN)),
    "danet": ("+ both", "danet", ()),
    "paper": ("+ both, the paper's start", "paper", ()),
    "convolutions": (
        "both branches without attention",
        "convolutions",
        ("--config.training.attention_multiplier=0",),
    ),
}
CAMVID_STEPS = "--config.training.steps=1200"


def main(arguments: list[str] | None = None) -> None:
    """Trains the missing runs, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", choices=("far_scenes", "camvid"), default="far_scenes")
    parser.add_argument("--rows", nargs="+", choices=tuple(ROWS), help="all unless named")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("build/table1"))
    options, flags = parser.parse_known_args(arguments)
    rows = options.rows or [row for row in ROWS if options.data == "far_scenes" or row != "paper"]
    path = options.workdir / f"{options.data}.json"
    table = (
        json.loads(path.read_text()) if path.exists() else {"data": options.data, "flags": flags, "rows": {}}
    )
    if table["flags"] != flags:
        parser.error(f"{path} was made with {table['flags']}; give the same flags or another --workdir")
    for seed in range(options.seeds):  # all rows of one seed come first
        for row in rows:
            done = table["rows"].setdefault(row, {})
            if str(seed) in done:
                continue
            done[str(seed)] = one_run(options.data, row, seed, options.workdir, flags)
            options.workdir.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(table, indent=1))
            path.with_suffix(".md").write_text(markdown(table))
    print(markdown(table))


def one_run(data: str, row: str, seed: int, folder: pathlib.Path, flags: list[str]) -> dict[str, object]:
    """Trains or resumes the run of a row and a seed; returns its mIoU, what each scale at 0 costs, and the seconds."""
    _, variant, changes = ROWS[row]
    workdir = folder / f"{data}_{row}_{seed}"
    if data == "far_scenes":
        recipe = [f"--config={ROOT / 'configs/far_scenes.py'}:{variant}"]
    else:
        recipe = [f"--config={ROOT / 'configs/camvid.py'}", CAMVID_STEPS]
    command = [
        sys.executable,
        str(ROOT / "run.py"),
        *recipe,
        *changes,
        f"--workdir={workdir}",
        f"--config.seed={seed}",
        *flags,
    ]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=sys.stderr)
    seconds = time.perf_counter() - start
    if row in ("fcn", "convolutions"):
        subprocess.run([*command, "--mode=evaluate"], check=True, stdout=sys.stderr)
        scores = {"as trained": workdir / "evaluation.json"}
    else:
        subprocess.run([*command, "--mode=evaluate", "--ablate"], check=True, stdout=sys.stderr)
        scores = {
            p.parent.name.replace("_", " "): p for p in (workdir / "ablation").glob("*/evaluation.json")
        }
    results = {name: json.loads(file.read_text()) for name, file in scores.items()}
    miou = results["as trained"]["miou"]
    costs = {name: miou - result["miou"] for name, result in results.items() if name != "as trained"}
    versions = results["as trained"]["versions"]
    return {"miou": miou, "costs": costs, "training_seconds": seconds, "versions": versions}


def markdown(table: dict) -> str:
    """Returns the table of docs/results.md: mIoU in per cent and points lost, as mean and spread over the seeds."""
    names = ("alpha 0", "beta 0", "alpha and beta 0")
    lines = [f"| {table['data']} | mIoU | seeds | {' | '.join(names)} |", "|---|---|---|---|---|---|"]
    for row, runs in table["rows"].items():
        if runs:
            costs = (_over_seeds([run["costs"].get(name) for run in runs.values()]) for name in names)
            score = _over_seeds([run["miou"] for run in runs.values()])
            lines.append(f"| {ROWS[row][0]} | {score} | {len(runs)} | {' | '.join(costs)} |")
    return "\n".join(lines) + "\n"


def _over_seeds(values: list[float | None]) -> str:
    found = [100 * value for value in values if value is not None]
    if not found:
        return "-"
    spread = f" ± {statistics.stdev(found):.2f}" if len(found) > 1 else ""
    return f"{statistics.mean(found):.2f}{spread}"


if __name__ == "__main__":
    main()
