"""Measurements of speed, memory and accuracy: a script for each figure that the documentation states."""
