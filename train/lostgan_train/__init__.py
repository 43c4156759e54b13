"""Training side of lostgan-serve: networks, checkpoints and the importer of official weights."""
