"""The builders of the data sets, which write ArrayRecord with TFDS but without TensorFlow."""
