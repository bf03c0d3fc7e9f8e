"""Photometric distortion, with which mmsegmentation trains DANet; the paper and the authors' code do without.

The source is mmsegmentation's `PhotoMetricDistortion` (mmseg/datasets/transforms/transforms.py), after SSD
(arXiv 1512.02325, section 2.2): light, contrast, saturation and hue, each changed in half of the images.
"""

from __future__ import annotations

import cv2
import numpy as np

BRIGHTNESS = 32
"""Levels of 255 that are added or taken at most."""
FACTORS = (0.5, 1.5)
"""Of contrast and saturation."""
HUE = 18
"""Of the 180 steps, two degrees each, that OpenCV parts the circle of hues into."""


def distort(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change the light and the colours of `image` at random.

    Args:
      image: uint8 `[H, W, 3]`, RGB.
      rng: Where chance comes from.

    Returns:
      uint8 `[H, W, 3]`: brightness first, saturation and hue in HSV, contrast before or after these two.
    """
    if rng.random() < 0.5:
        image = _linear(image, 1.0, rng.uniform(-BRIGHTNESS, BRIGHTNESS))
    contrast_first = rng.random() < 0.5
    contrast = rng.uniform(*FACTORS) if rng.random() < 0.5 else 1.0
    if contrast_first:
        image = _linear(image, contrast)
    saturation = rng.uniform(*FACTORS) if rng.random() < 0.5 else 1.0
    hue = int(rng.integers(-HUE, HUE)) if rng.random() < 0.5 else 0
    if saturation != 1.0 or hue:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(np.int16) + hue) % 180
        hsv[..., 1] = _linear(hsv[..., 1], saturation)
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return image if contrast_first else _linear(image, contrast)


def _linear(levels: np.ndarray, factor: float, offset: float = 0.0) -> np.ndarray:
    return np.clip(levels.astype(np.float32) * factor + offset, 0, 255).astype(np.uint8)
