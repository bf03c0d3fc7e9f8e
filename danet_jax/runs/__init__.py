"""A run's directory: recipe, classes, versions, log and checkpoints, read and written in one place."""
