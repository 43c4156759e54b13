"""The tables of the paper: training, evaluation and the published numbers side by side."""
