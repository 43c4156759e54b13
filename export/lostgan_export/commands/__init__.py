"""The commands `export`, `bench` and `bench-training`. Importing them imports nothing heavy."""
