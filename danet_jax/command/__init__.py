"""What a command needs before its mode begins: its recipe, its place, its hosts, what was compiled before."""
