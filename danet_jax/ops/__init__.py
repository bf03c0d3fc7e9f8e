"""Functions without parameters: attention, convolution, batch normalisation, resizing and losses."""
