"""From label maps to mIoU, tables and files."""
