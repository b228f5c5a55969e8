"""Speed and memory, measured against other frameworks: one script for each figure that the README states."""
