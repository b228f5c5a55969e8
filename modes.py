"""What `main.py` does once JAX may start: one function a mode, each returning the exit code."""

from pathlib import Path

from ml_collections import ConfigDict

import train as training


def train(config: ConfigDict, workdir: Path) -> int:
    """Trains and prints where the results are. A signal's exit code is 128 plus its number."""
    try:
        summary = training.train_and_evaluate(config, workdir)
    except training.StopRun as stop:
        print(f"stopped and saved; the same command goes on from here: {workdir}")
        return 128 + stop.signum
    for name, measured in {"raw weights": summary, "moving average": summary.get("ema")}.items():
        if measured:
            test = measured["test"]
            print(f"test accuracy {test['accuracy']:.4f} loss {test['loss']:.4f} ({name})")
    print(f"results: {workdir}")
    return 0
