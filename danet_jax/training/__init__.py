"""The components of a training step: losses, optimizer, state and mesh."""
