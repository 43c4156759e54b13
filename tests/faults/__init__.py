"""The fault suite: what happens to real servers and clients, a file for each kind. `make faults` runs it."""
