"""What a step of training is made of: losses, optimizer, state, mesh."""
