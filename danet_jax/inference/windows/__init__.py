"""Images in sliding windows, at one or more scales, as the authors and mmsegmentation apply a network."""
