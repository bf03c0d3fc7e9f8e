"""Losses, optimizer, state and the loop."""
