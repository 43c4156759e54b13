"""Evaluation: generated images against real ones, as the paper's section 3 measures them."""
