"""How the authors' code and mmsegmentation score an image, in PyTorch, one window after the other.

`network` takes normalised images `[1, 3, H, W]` to logits `[1, K, H, W]`. Images are uint8 `[H, W, 3]`; scores come
back as `[H, W, K]` of the network's floating type.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Network = Callable[[Tensor], Tensor]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalised(image: np.ndarray, dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float64) / 255)
    mean, std = (torch.tensor(v, dtype=torch.float64).reshape(1, 3, 1, 1) for v in (MEAN, STD))
    return ((x - mean) / std).to(dtype)


def black(x: Tensor, height: int, width: int) -> Tensor:
    """`x` padded at the bottom and the right with what 0 is normalised to."""
    value = -torch.tensor(MEAN, dtype=torch.float64) / torch.tensor(STD, dtype=torch.float64)
    padded = value.to(x.dtype).reshape(1, 3, 1, 1).expand(1, 3, height, width).clone()
    padded[:, :, : x.shape[2], : x.shape[3]] = x
    return padded


@torch.no_grad()
def authors_scores(
    network: Network,
    image: np.ndarray,
    *,
    base_size: int,
    crop: int,
    stride: int,
    scales: tuple[float, ...],
    flip: bool = True,
    dtype: torch.dtype = torch.float32,
    log: bool = False,
) -> np.ndarray:
    """Sum over scales of the mean over windows of exp(logits + un-flipped logits of the flip).

    `log` gives the logarithm, with a float64 logsumexp in place of sums, so that it never overflows (window
    means then need log weights; bilinear resizing is done by hand).
    """
    original = normalised(image, dtype)
    height, width = image.shape[:2]
    total = None
    for scale in scales:
        long_side = math.ceil(base_size * scale)
        if height > width:
            h, w = long_side, int(width * long_side / height + 0.5)
        else:
            h, w = int(height * long_side / width + 0.5), long_side
        x = F.interpolate(original, (h, w), mode="bilinear", align_corners=True)
        x = black(x, max(h, crop), max(w, crop))
        rows = math.ceil((x.shape[2] - crop) / stride) + 1
        columns = math.ceil((x.shape[3] - crop) / stride) + 1
        summed = count = None
        for i in range(rows):
            for j in range(columns):
                top, left = i * stride, j * stride
                part = x[:, :, top : top + crop, left : left + crop]
                window = black(part, crop, crop)
                logits = network(window)
                if flip:
                    logits = logits + network(window.flip(3)).flip(3)
                if summed is None:
                    empty = (1, logits.shape[1], *x.shape[2:])
                    summed = torch.full(empty, -math.inf if log else 0.0, dtype=dtype)
                    count = torch.zeros((1, 1, *x.shape[2:]), dtype=dtype)
                inside = logits[:, :, : part.shape[2], : part.shape[3]]
                place = (..., slice(top, top + part.shape[2]), slice(left, left + part.shape[3]))
                summed[place] = (
                    torch.logaddexp(summed[place], inside) if log else summed[place] + inside.exp()
                )
                count[place] += 1
        mean = summed - count.log() if log else summed / count
        mean = mean[:, :, :h, :w]
        if log:
            score = _log_resize(mean, height, width)
            total = score if total is None else torch.logaddexp(total, score)
        else:
            score = F.interpolate(mean, (height, width), mode="bilinear", align_corners=True)
            total = score if total is None else total + score
    return total[0].permute(1, 2, 0).numpy()


def _log_resize(x: Tensor, height: int, width: int) -> Tensor:
    """Log of the bilinear resizing (align_corners) of exp(x)."""
    for axis, size in ((2, height), (3, width)):
        old = x.shape[axis]
        # Fractions of integers: a weight of 1e-16 in the place of 0 counts beside exponentials.
        numerator, denominator = torch.arange(size) * (old - 1), max(size - 1, 1)
        low = numerator // denominator
        fraction = (numerator - low * denominator).to(torch.float64) / denominator
        shape = [1, 1, 1, 1]
        shape[axis] = size
        a = x.index_select(axis, low) + (1 - fraction).log().reshape(shape)
        b = x.index_select(axis, (low + 1).clamp(max=old - 1)) + fraction.log().reshape(shape)
        x = torch.logaddexp(a, b)
    return x


@torch.no_grad()
def mmseg_scores(
    network: Network,
    image: np.ndarray,
    *,
    scales: tuple[float, ...],
    flip: bool,
    window: tuple[int, int] | None,
    stride: tuple[int, int] | None,
    base_size: tuple[int, int] | None,
    align_corners: bool,
    dtype: torch.dtype = torch.float32,
) -> np.ndarray:
    """Mean over scales and flips of softmax(mean logits over windows, resized to the image's size)."""
    height, width = image.shape[:2]
    total, views = 0, 0
    for scale in scales:
        long_side, short_side = base_size or (max(height, width), min(height, width))
        box = int(long_side * scale), int(short_side * scale)
        factor = min(box[0] / max(height, width), box[1] / min(height, width))
        h, w = int(height * factor + 0.5), int(width * factor + 0.5)
        scaled = cv2.resize(image, (w, h), interpolation=cv2.INTER_LINEAR)
        for flipped in (False, True) if flip else (False,):
            x = normalised(scaled[:, ::-1] if flipped else scaled, dtype)
            logits = network(x) if window is None else _slide(network, x, window, stride)
            logits = F.interpolate(logits, (height, width), mode="bilinear", align_corners=align_corners)
            probabilities = logits.softmax(1)
            total = total + (probabilities.flip(3) if flipped else probabilities)
            views += 1
    return (total / views)[0].permute(1, 2, 0).numpy()


def _slide(network: Network, x: Tensor, window: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    h, w = x.shape[2:]
    summed, count = 0, torch.zeros((1, 1, h, w), dtype=x.dtype)
    for i in range(-(-max(h - window[0], 0) // stride[0]) + 1):
        for j in range(-(-max(w - window[1], 0) // stride[1]) + 1):
            bottom, right = min(i * stride[0] + window[0], h), min(j * stride[1] + window[1], w)
            top, left = max(bottom - window[0], 0), max(right - window[1], 0)
            logits = network(x[:, :, top:bottom, left:right])
            summed = summed + F.pad(logits, (left, w - right, top, h - bottom))
            count[:, :, top:bottom, left:right] += 1
    return summed / count
