"""Reads and writes a run's directory: recipe, classes, library versions, log and checkpoints."""
