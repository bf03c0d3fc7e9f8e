"""Compares DANet with a ResNet-50 to that of mmsegmentation and PaddleSeg, as users install them, on the same cores.

    python -m benchmarks.peers [--into .peers] [--size 256] [--batch 2] [--repeats 5]

Each library gets an environment of its own in the folder (the first time, 2 GB are downloaded). Each side runs in a
process of its own that stays alive and runs on request, in turns, so that all sides meet the same conditions. `forward`
goes from 8-bit images to label maps, and `step` is a step of SGD from 8-bit images and labels, each by the library's
own functions. All use float32, a stem of three 3x3 convolutions, an auxiliary head, output stride 8 and random weights.
PaddleSeg's auxiliary head is one 1x1 convolution, its shortcuts average before theirs, and PaddlePaddle uses one core
by default (with two it was slower). On a machine with other load, CPU time is more meaningful than wall time, most of
all under `taskset -c 0`.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

REQUIREMENTS = {
    "mmsegmentation": [
        "onedl-mmsegmentation==1.4.2",
        "onedl-mmcv==2.3.6",
        "onedl-mmengine==0.10.12",
        "torch==2.13.0",
        "torchvision==0.28.0",
    ],
    # Its losses fail with PaddlePaddle 3, and its OpenCV with NumPy 2.
    "paddleseg": ["paddleseg==2.8.0", "paddlepaddle==2.6.2", "numpy<2", "setuptools"],
}
CLASSES = 19
WORK = ("forward", "step")
LEARNING_RATE = 1e-6  # small enough to keep the random network nearly unchanged


def environment(folder, name):
    """Returns the Python of the library's environment, and creates the environment if necessary."""
    path = folder / name
    python = path / "bin" / "python"
    if not (path / "installed").exists():
        print(f"installing {', '.join(REQUIREMENTS[name])} into {path}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", path], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *REQUIREMENTS[name]], check=True)
        (path / "installed").touch()
    return python


def data(options):
    """Returns images, uint8 `[B, S, S, 3]`, and labels, uint8 `[B, S, S]`, which are the same for all sides."""
    import numpy as np

    rng = np.random.default_rng(0)
    shape = (options.batch, options.size, options.size)
    return rng.integers(0, 256, (*shape, 3), np.uint8), rng.integers(0, CLASSES, shape).astype(np.uint8)


def danet_jax(options):
    """Returns the versions of danet_jax, and its functions `forward` and `step`."""
    import jax

    from danet_jax import DANet, Segmenter
    from danet_jax.training.mesh import make_mesh
    from danet_jax.training.optimizer import poly_schedule, sgd
    from danet_jax.training.state import create_state, make_train_step

    images, labels = data(options)
    model = DANet(CLASSES, stem="v1c", auxiliary=True, align_corners=False)
    optimizer = sgd(poly_schedule(LEARNING_RATE, 1000))
    holder = [create_state(model, optimizer, 0, make_mesh(devices=jax.devices()[:1]))]
    segmenter = Segmenter(model, holder[0].variables)
    train_step = make_train_step(model, optimizer)

    def step():
        holder[0], metrics = train_step(holder[0], {"image": images, "label": labels})
        metrics["loss"].block_until_ready()

    return f"jax {jax.__version__}", {"forward": lambda: segmenter(images), "step": step}


def mmsegmentation(options):
    """Returns the same for mmsegmentation's `danet_r50-d8`, with its `test_step` and `train_step`."""
    import mmseg
    import torch
    from mmengine import Config
    from mmengine.model import revert_sync_batchnorm
    from mmengine.optim import OptimWrapper
    from mmengine.structures import PixelData
    from mmseg.registry import MODELS
    from mmseg.structures import SegDataSample
    from mmseg.utils import register_all_modules

    register_all_modules()
    configs = Path(mmseg.__file__).parent / ".mim" / "configs" / "_base_" / "models"
    config = Config.fromfile(configs / "danet_r50-d8.py").model
    config.pretrained = None
    config.data_preprocessor.size = (options.size, options.size)
    model = revert_sync_batchnorm(MODELS.build(config))
    optimizer = OptimWrapper(
        torch.optim.SGD(model.parameters(), LEARNING_RATE, momentum=0.9, weight_decay=1e-4)
    )
    images, labels = data(options)
    inputs = [torch.from_numpy(image).permute(2, 0, 1).contiguous() for image in images]
    size = (options.size, options.size)
    meta = {"ori_shape": size, "img_shape": size, "pad_shape": size}
    samples = [
        SegDataSample(gt_sem_seg=PixelData(data=torch.from_numpy(label.astype("int64"))[None]), metainfo=meta)
        for label in labels
    ]

    def batch():
        return {"inputs": list(inputs), "data_samples": list(samples)}

    def forward():
        model.eval()
        with torch.no_grad():
            return [sample.pred_sem_seg.data.numpy() for sample in model.test_step(batch())]

    def step():
        model.train()
        model.train_step(batch(), optimizer)

    return f"mmsegmentation {mmseg.__version__}, torch {torch.__version__}", {
        "forward": forward,
        "step": step,
    }


def paddleseg(options):
    """Returns the same for PaddleSeg's `danet_resnet50_os8`, as its `predict` and `train` run a batch."""
    import numpy as np
    import paddle
    from paddleseg import transforms
    from paddleseg.core.infer import inference
    from paddleseg.core.train import loss_computation
    from paddleseg.models import CrossEntropyLoss, DANet, ResNet50_vd

    model = DANet(CLASSES, ResNet50_vd(output_stride=8), backbone_indices=(2, 3))
    optimizer = paddle.optimizer.Momentum(
        LEARNING_RATE, momentum=0.9, parameters=model.parameters(), weight_decay=1e-4
    )
    losses = {"types": [CrossEntropyLoss()] * 4, "coef": [1, 1, 1, 0.4]}
    images, labels = data(options)
    normalize = transforms.Compose([transforms.Normalize()], to_rgb=False)

    def batch():
        return paddle.to_tensor(np.stack([normalize({"img": image})["img"] for image in images]))

    def forward():
        model.eval()
        with paddle.no_grad():
            return inference(model, batch(), trans_info=[])[0].numpy()

    def step():
        model.train()
        truth = paddle.to_tensor(labels).astype("int64")
        loss = sum(loss_computation(model(batch()), truth, None, losses))
        loss.backward()
        optimizer.step()
        model.clear_gradients()
        loss.item()

    return f"PaddleSeg 2.8, paddle {paddle.__version__}", {"forward": forward, "step": step}


SIDES = {"danet_jax": danet_jax, "mmsegmentation": mmsegmentation, "paddleseg": paddleseg}


class Worker:
    """A process that keeps the network of one side and runs it on request."""

    def __init__(self, python, name, options):
        command = [python, __file__, "--worker", name, "--size", str(options.size)]
        self._process = subprocess.Popen(
            [*command, "--batch", str(options.batch)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        )
        self.versions = self._answer()

    def seconds(self, work):
        """Runs the work once, and returns the wall and CPU time in seconds."""
        print(work, file=self._process.stdin, flush=True)
        return self._answer()

    def close(self):
        self._process.stdin.close()
        self._process.wait()

    def _answer(self):
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a worker ended with status {self._process.wait()}; its words are above")
        return json.loads(line)


def serve(options):
    """Runs a worker, which runs the work on each line of its input and answers with the time that it took."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # send what libraries print to standard error
    versions, runs = SIDES[options.worker](options)
    print(json.dumps(versions), file=answers, flush=True)
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        runs[line.strip()]()
        seconds = time.perf_counter() - wall, time.process_time() - cpu
        print(json.dumps(seconds), file=answers, flush=True)


def main():
    """Starts all sides, runs them in turns, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--into", type=Path, default=Path(".peers"))
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--worker", choices=list(SIDES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        serve(options)
        return
    pythons = {name: environment(options.into, name) for name in REQUIREMENTS}
    pythons = {"danet_jax": sys.executable, **pythons}
    workers = {name: Worker(python, name, options) for name, python in pythons.items()}
    times = {name: {work: [] for work in WORK} for name in workers}
    for work in WORK:
        for repeat in range(options.repeats + 1):
            for name, worker in workers.items():
                seconds = worker.seconds(work)
                if repeat > 0:  # the first compiles
                    times[name][work].append(seconds)
    print(f"ResNet-50 DANet, {options.size}x{options.size}, batch {options.batch}, float32: best seconds")
    for kind, clock in enumerate(("wall", "CPU")):
        print(f"{clock + ' time':56}" + "".join(f"{work:>9}{'/ ours':>8}" for work in WORK))
        for name, worker in workers.items():
            row = ""
            for work in WORK:
                best, ours = (min(s[kind] for s in times[side][work]) for side in (name, "danet_jax"))
                row += f"{best:9.2f}{best / ours:8.2f}"
            print(f"{name + ' (' + worker.versions + ')':56}{row}")
    for worker in workers.values():
        worker.close()


if __name__ == "__main__":
    main()
