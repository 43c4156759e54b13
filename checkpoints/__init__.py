"""Weights of the bundled models, as package data. `lostgan_train.networks.bundled` finds them."""
