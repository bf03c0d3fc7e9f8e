"""The attention explorer: one page that shows what each position of an image attends to."""
