"""From 8-bit images to label maps through one jit-compiled function per shape."""
