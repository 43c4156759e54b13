"""Labelled data sets from layouts: a plan, shards of it that are made anywhere, and one data set in the end."""
