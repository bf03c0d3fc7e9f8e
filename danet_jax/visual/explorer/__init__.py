"""The attention explorer: one page that shows what every place of a picture attends to."""
