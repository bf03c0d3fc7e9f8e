"""Checkpoints of other people in, formats that others read out."""
