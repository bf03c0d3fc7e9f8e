"""From files on disk to batches sharded over devices."""
