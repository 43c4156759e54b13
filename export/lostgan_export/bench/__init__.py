"""Comparisons of speed: formulations, a server under load, a training step."""
