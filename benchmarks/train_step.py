"""Training steps in images per second, compared with peers: `python -m benchmarks.train_step --help`."""

import sys

from benchmarks import contest

if __name__ == "__main__":
    sys.exit(contest.main("train", __doc__, batches=[32], steps=3))
