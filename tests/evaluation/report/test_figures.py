"""Curves of the report against the numbers that they draw."""

import numpy as np

from evaluation.report import figures


def test_bands_are_one_deviation_over_the_seeds_that_reached_an_epoch() -> None:
    def history(losses: list[float]) -> list[dict]:
        return [{"step": i, "epoch": i / 2, "split": "train", "loss": loss, "accuracy": 0.5}
                for i, loss in enumerate(losses, start=1)]  # fmt: skip

    histories = [history([3.0, 1.0, 1.0, 1.0]), history([5.0, 3.0, 2.0, 2.0, 9.0])]
    axes = figures.learning_curves(histories, {}).axes[0]
    (curve,) = axes.lines
    np.testing.assert_allclose(curve.get_xydata(), [[1, 3.0], [2, 1.5]])
    (band,) = axes.collections
    heights = {tuple(np.round(xy, 6)) for xy in band.get_paths()[0].vertices}
    deviations = np.array([np.sqrt(2), np.sqrt(0.5)])
    for x, mean, deviation in zip((1, 2), (3.0, 1.5), deviations, strict=True):
        for y in (mean - deviation, mean + deviation):
            assert (x, round(y, 6)) in heights
    alone = figures.learning_curves(histories[:1], {}).axes[0]
    assert not alone.collections
    assert len(alone.lines) == 2  # each value, and the means


def test_curves_of_validation_tell_raw_weights_from_their_average() -> None:
    def labels(*splits: str) -> list[str]:
        history = [{"step": 1, "epoch": 1, "split": split, "loss": 1.0, "accuracy": 0.5} for split in splits]
        return [line.get_label() for line in figures.learning_curves([history], {}).axes[0].lines]

    assert labels("train", "val", "val_raw") == ["train", "val, moving average", "val, raw weights"]
    assert labels("train", "val") == ["train", "val"]
