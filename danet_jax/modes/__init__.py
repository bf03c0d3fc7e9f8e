"""The modes of `run.py`: each module's `run` takes a recipe and does the whole job."""
