"""Predictions in images per second, compared with peers: `python -m benchmarks.inference --help`."""

import sys

from benchmarks import contest

if __name__ == "__main__":
    sys.exit(contest.main("inference", __doc__, batches=[1, 32], steps=10))
