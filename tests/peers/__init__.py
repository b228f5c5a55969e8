"""Comparisons with other frameworks' own code; `make test-peers`."""
