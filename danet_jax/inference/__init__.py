"""Applies a network to images and returns label maps, with one jit-compiled function per shape."""
