"""The data pipeline, from files on disk to batches sharded over devices."""
