"""Weights of other frameworks: a file for each format, with its table of names and transforms."""
