"""Exact primitives without parameters: attention, resizing, convolution, losses at full resolution."""
