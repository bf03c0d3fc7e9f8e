"""What a command needs before its mode starts: the recipe, the run's directory, the other hosts, compiled programs."""
