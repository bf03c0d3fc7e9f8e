"""Evaluation of label maps: mIoU, tables and files."""
