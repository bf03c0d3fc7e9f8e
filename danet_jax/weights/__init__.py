"""Loads published checkpoints, and exports networks to formats that other programs read."""
