"""Checkpoints: a run's own, other people's in, formats that others read out."""
