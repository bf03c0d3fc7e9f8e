"""The PyTorch part of benchmarks/accelerator.py, and the reference results in float32 on the CPU."""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from benchmarks import accelerator_cases as cases
from benchmarks.accelerator_cases import FULL, TINY, Worker, relative_error, tree_error
from tests.reference import torch_danet

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def wait(_: Any = None) -> None:
    """Waits until the device has finished all work."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def nchw(array: np.ndarray, *like: Any) -> Tensor:
    """Returns `[B, H, W, C]` as a torch tensor `[B, C, H, W]` in channels_last, which has the same memory layout."""
    return torch.from_numpy(array).permute(0, 3, 1, 2).to(*like)


def nhwc(tensor: Tensor) -> np.ndarray:
    return tensor.detach().permute(0, 2, 3, 1).float().cpu().numpy()


def normalized(images: Tensor) -> Tensor:
    """Returns normalized images, float32 `[B, 3, H, W]` in channels_last, from uint8 `[B, H, W, 3]`."""
    mean, deviation = (torch.tensor(x, device=images.device) for x in IMAGENET)
    return ((images.float() / 255 - mean) / deviation).permute(0, 3, 1, 2)


def amp() -> torch.autocast:
    return torch.autocast(DEVICE, dtype=torch.bfloat16)


# Convolutions.


def convolution_parts(
    x: Tensor, kernel: Tensor, dy: Tensor, dilation: int
) -> dict[str, Callable[[], Tensor]]:
    geometry = {"padding": dilation, "dilation": dilation}
    return {
        "forward": lambda: functional.conv2d(x, kernel, **geometry),
        "input_gradient": lambda: torch.nn.grad.conv2d_input(x.shape, kernel, dy, **geometry),
        "kernel_gradient": lambda: torch.nn.grad.conv2d_weight(x, kernel.shape, dy, **geometry),
    }


def convolution_arrays(worker: Worker, *like: Any) -> tuple[Tensor, Tensor, Tensor]:
    x, kernel, dy = cases.convolution_inputs(worker.sizes)
    oihw = torch.from_numpy(kernel.transpose(3, 2, 0, 1)).to(*like)
    return nchw(x, *like), oihw.contiguous(memory_format=torch.channels_last), nchw(dy, *like)


def reference_convolution(worker: Worker) -> None:
    arrays = convolution_arrays(worker)
    for dilation in worker.sizes.dilations:
        results = {name: run() for name, run in convolution_parts(*arrays, dilation).items()}
        kernel_gradient = results.pop("kernel_gradient").permute(2, 3, 1, 0)
        # Only results of the first image are saved; the gradient of the kernel is summed over all images.
        first = {name: nhwc(result[:1]) for name, result in results.items()}
        worker.save(f"convolution_{dilation}", first | {"kernel_gradient": kernel_gradient.numpy()})


def torch_convolution(worker: Worker) -> None:
    arrays = convolution_arrays(worker, DEVICE, torch.bfloat16)
    worker.ready()
    for dilation in worker.sizes.dilations:
        expected = worker.load(f"convolution_{dilation}")
        row: dict[str, Any] = {}
        for name, run in convolution_parts(*arrays, dilation).items():
            result = run()
            of_kernel = name == "kernel_gradient"
            found = result.permute(2, 3, 1, 0).float().cpu().numpy() if of_kernel else nhwc(result[:1])
            row[f"{name}_error"] = relative_error(found, expected[name])
            row[f"{name}_ms"] = 1e3 * worker.seconds(run, wait)
        worker.row(dilation=dilation, form="torch", **row)


# Position attention.


def reference_attention(worker: Worker) -> None:
    """Computes position attention by its definition, a few queries at a time, for the first element of the batch."""
    for batch, positions in worker.sizes.attention:
        query, key, value, cotangent = (
            torch.from_numpy(x[0]) for x in cases.attention_inputs(batch, positions)
        )
        output, dquery = torch.empty_like(value), torch.empty_like(query)
        dkey, dvalue = torch.zeros_like(key), torch.zeros_like(value)
        for start in range(0, positions, 2048):
            rows = slice(start, start + 2048)
            weights = torch.softmax(query[rows] @ key.T, dim=-1)
            output[rows] = weights @ value
            dvalue += weights.T @ cotangent[rows]
            dweights = cotangent[rows] @ value.T
            mean = (cotangent[rows] * output[rows]).sum(1, keepdim=True)
            dlogits = weights * (dweights - mean)
            dquery[rows] = dlogits @ key
            dkey += dlogits.T @ query[rows]
        results = {"output": output, "query": dquery, "key": dkey, "value": dvalue}
        worker.save(f"attention_{positions}", {name: x.numpy() for name, x in results.items()})


def attention_form(form: str, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    if form == "torch bmm":  # the authors' code
        weights = torch.softmax(torch.bmm(query, key.transpose(1, 2)), dim=-1)
        return torch.bmm(weights, value)
    if form == "torch sdpa":
        return functional.scaled_dot_product_attention(
            query[:, None], key[:, None], value[:, None], scale=1.0
        )[:, 0]
    # Flash kernels need heads of one width, so each gets 64 channels of the values, and repeated queries and keys.
    heads = cases.VALUE_CHANNELS // 64
    query, key = (x[:, None].expand(-1, heads, -1, -1) for x in (query, key))
    value = value.unflatten(2, (heads, 64)).transpose(1, 2)
    output = functional.scaled_dot_product_attention(query, key, value, scale=1.0)
    return output.transpose(1, 2).flatten(2)


@torch.no_grad()
def attention_alone(form: str, leaves: list[Tensor]) -> Tensor:
    return attention_form(form, *leaves)


def attention_and_gradients(form: str, leaves: list[Tensor], cotangent: Tensor) -> tuple[Tensor, ...]:
    output = attention_form(form, *leaves)
    return (output, *torch.autograd.grad(output, leaves, cotangent))


def torch_attention(worker: Worker) -> None:
    worker.ready()
    for batch, positions in worker.sizes.attention:
        expected = worker.load(f"attention_{positions}")
        inputs = cases.attention_inputs(batch, positions)
        *leaves, cotangent = (torch.from_numpy(x).to(DEVICE, torch.bfloat16) for x in inputs)
        leaves = [x.requires_grad_() for x in leaves]
        for form in ("torch bmm", "torch sdpa", "torch sdpa, 64s"):
            forward = functools.partial(attention_alone, form, leaves)
            with_gradient = functools.partial(attention_and_gradients, form, leaves, cotangent)
            try:
                memory_from_here()
                results = {
                    name: x[0].detach().float().cpu().numpy()
                    for name, x in zip(("output", "query", "key", "value"), with_gradient(), strict=True)
                }
                worker.row(
                    batch=batch,
                    positions=positions,
                    form=form,
                    error=relative_error(results.pop("output"), expected["output"]),
                    gradient_error=tree_error(results, {k: expected[k] for k in results}),
                    gradient_peak_gib=peak_gib(),
                    forward_ms=1e3 * worker.seconds(forward, wait),
                    gradient_ms=1e3 * worker.seconds(with_gradient, wait),
                )
            except torch.cuda.OutOfMemoryError as error:
                worker.row(batch=batch, positions=positions, form=form, failed=str(error).split(".")[0])


def memory_from_here() -> None:
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gib() -> float:
    return torch.cuda.max_memory_allocated() / 2**30 if DEVICE == "cuda" else 0.0


# The network.


def network(backbone: str) -> torch_danet.DANet:
    model = torch_danet.DANet(cases.CLASSES, backbone, multi_grid=cases.MULTI_GRID, dropout_rate=0.0)
    return torch_danet.randomise(model, np.random.default_rng(1))


def loss_of(outputs: Any, labels: Tensor) -> Tensor:
    losses = [functional.cross_entropy(x.float(), labels) for x in outputs if x is not None]
    return torch.stack(losses).sum()


def gradients(model: torch.nn.Module) -> dict[str, np.ndarray]:
    names = ((name.removeprefix("_orig_mod."), p) for name, p in model.named_parameters())
    return {name: p.grad.float().cpu().numpy() for name, p in names}


def saved_network(worker: Worker, backbone: str) -> torch_danet.DANet:
    """Saves the weights of the network for danet_jax, and returns the network."""
    model = network(backbone)
    worker.save(f"weights_{backbone}", {name: x.numpy() for name, x in model.state_dict().items()})
    return model


def reference_step(worker: Worker, backbone: str) -> None:
    model = saved_network(worker, backbone)
    images, labels = cases.step_inputs(worker.sizes, 2)
    model.train()
    loss = loss_of(model(normalized(torch.from_numpy(images))), torch.from_numpy(labels))
    loss.backward()
    worker.save(f"step_{backbone}", gradients(model) | {"loss": loss.detach().numpy()})


def torch_step(worker: Worker, backbone: str, compiled: str = "") -> None:
    model = network(backbone).to(DEVICE, memory_format=torch.channels_last).train()
    batches = worker.sizes.batches
    if compiled:
        batches = batches[-1:]
        backend = "inductor" if DEVICE == "cuda" else "eager"
        model = torch.compile(model, dynamic=False, backend=backend)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9, momentum=0.9, weight_decay=1e-4)

    def arrays(batch: int) -> tuple[Tensor, Tensor]:
        images, labels = (torch.from_numpy(x).to(DEVICE) for x in cases.step_inputs(worker.sizes, batch))
        return normalized(images), labels

    def step(images: Tensor, labels: Tensor) -> Tensor:
        optimizer.zero_grad()
        with amp():
            loss = loss_of(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss

    if compiled:
        step(*arrays(batches[0]))
        memory_from_here()
    worker.ready()
    expected = worker.load(f"step_{backbone}")
    loss = expected.pop("loss")
    for batch in batches:
        images, labels = arrays(batch)
        memory_from_here()
        row = {
            "loss_error": relative_error(step(images, labels).item(), loss),
            "gradient_error": tree_error(gradients(model), expected),
        }
        time = worker.seconds(lambda images=images, labels=labels: step(images, labels), wait)
        form = "torch AMP, compiled" if compiled else "torch AMP"
        row |= {"images_per_second": batch / time, "step_ms": 1e3 * time, "peak_gib": peak_gib()}
        worker.row(batch=batch, form=form, **row)


# Prediction.


def reference_predict(worker: Worker, backbone: str) -> None:
    model, images = saved_network(worker, backbone), torch.from_numpy(cases.test_image(worker.sizes))
    with torch.no_grad():
        logits = model(normalized(images), upsample=False)[0]
        labels = upsampled(logits, images).argmax(1)
    worker.save("predict", {"labels": labels.to(torch.uint8).numpy(), "logits": nhwc(logits)})


def upsampled(logits: Tensor, images: Tensor) -> Tensor:
    return functional.interpolate(logits, images.shape[1:3], mode="bilinear", align_corners=True)


def torch_predict(worker: Worker, backbone: str) -> None:
    model = network(backbone).to(DEVICE, memory_format=torch.channels_last)
    image = cases.test_image(worker.sizes)

    @torch.no_grad()
    def predict() -> np.ndarray:
        images = torch.from_numpy(image).to(DEVICE)
        with amp():
            logits = model(normalized(images), upsample=False)[0]
        return upsampled(logits, images).argmax(1).to(torch.uint8).cpu().numpy()

    worker.ready()
    expected = worker.load("predict")["labels"]
    memory_from_here()
    differing = float(np.mean(predict() != expected))
    time = worker.seconds(predict, wait)
    worker.row(form="torch AMP", labels_differing=differing, image_ms=1e3 * time, peak_gib=peak_gib())


# The loss.


def loss_and_gradients(leaves: list[Tensor], labels: Tensor) -> tuple[Tensor, ...]:
    size = labels.shape[1:]
    up = [functional.interpolate(x, size, mode="bilinear", align_corners=True) for x in leaves]
    total = torch.stack([functional.cross_entropy(x, labels, ignore_index=255) for x in up]).sum()
    return (total, *torch.autograd.grad(total, leaves))


def reference_loss(worker: Worker) -> None:
    logits, labels = cases.loss_inputs(worker.sizes)
    leaves = [nchw(x).requires_grad_() for x in logits]
    total, *found = loss_and_gradients(leaves, torch.from_numpy(labels))
    worker.save("loss", {"loss": total.detach().numpy(), "gradients": np.stack([nhwc(x) for x in found])})


def torch_loss(worker: Worker) -> None:
    logits, labels = cases.loss_inputs(worker.sizes)
    leaves = [nchw(x, DEVICE).requires_grad_() for x in logits]
    target = torch.from_numpy(labels).to(DEVICE)
    worker.ready()
    expected = worker.load("loss")
    memory_from_here()
    total, *found = loss_and_gradients(leaves, target)
    worker.row(
        form="torch",
        loss_error=relative_error(total.item(), expected["loss"]),
        gradient_error=relative_error(np.stack([nhwc(x) for x in found]), expected["gradients"]),
        peak_gib=peak_gib(),
        gradient_ms=1e3 * worker.seconds(lambda: loss_and_gradients(leaves, target), wait),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("function", help="one of the above")
    parser.add_argument("arguments", nargs="*")
    parser.add_argument("--folder", type=Path, help="where the processes exchange arrays")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    if options.function.startswith("reference"):
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))
    torch.backends.cudnn.benchmark = True
    worker = Worker(options.folder, TINY if options.tiny else FULL)
    globals()[options.function](worker, *options.arguments)


if __name__ == "__main__":
    main()
