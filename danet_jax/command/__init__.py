"""Prepares a command before its mode starts: the recipe, the run's directory, other hosts and compiled programs."""
