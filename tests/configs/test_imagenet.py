"""The recipes for ImageNet against the papers that they come from."""

import numpy as np
import pytest

from configs import imagenet, imagenet_a2, rules
from training.optimizer import learning_rate_schedule

STEPS_PER_EPOCH = 1_281_167 // 256


def test_evaluation_follows_the_published_protocol() -> None:
    config = imagenet.get_config()
    rules.check(config)
    assert (config.data.image_size, config.data.image_size / config.data.crop) == (224, 256)
    # What would move published figures.
    assert (config.compute_dtype, config.test_time_flip, config.temperature) == ("float32", False, 1.0)


def test_learning_rate_is_that_of_goyal_et_al() -> None:
    config = imagenet.get_config()
    schedule = learning_rate_schedule(config.optimizer, num_epochs=90, steps_per_epoch=STEPS_PER_EPOCH)
    epochs = {0: 0.0, 2.5: 0.05, 5: 0.1, 29.9: 0.1, 30: 0.01, 59.9: 0.01, 60: 1e-3, 79.9: 1e-3, 80: 1e-4}
    rates = [schedule(round(epoch * STEPS_PER_EPOCH)) for epoch in epochs]
    np.testing.assert_allclose(rates, list(epochs.values()), rtol=1e-5)


@pytest.mark.parametrize(
    ("field", "value"),
    # Wightman et al. 2021 (arXiv:2110.00476), table 2, column A2.
    [
        ("num_epochs", 300),
        ("data.image_size", 224),
        ("data.crop", 0.95),
        ("loss.name", "sigmoid"),
        ("label_smoothing", 0.0),
        ("ema_decay", 0.0),
        ("optimizer.name", "lamb"),
        ("optimizer.learning_rate", 5e-3),
        ("optimizer.weight_decay", 0.02),
        ("optimizer.schedule", "cosine"),
        ("optimizer.warmup_epochs", 5.0),
        ("model.stochastic_depth", 0.05),
        ("augment.flip", 0.5),
        ("augment.resized_crop", 0.08),
        ("augment.policy", "rand"),
        ("augment.policy_magnitude", 7.0),
        ("augment.mixup", 0.1),
        ("augment.cutmix", 1.0),
        ("augment.erasing", 0.0),
        ("augment.appearance", 0.0),
    ],
)
def test_a2_is_that_of_the_paper(field: str, value: object) -> None:
    assert dict(rules.flatten(imagenet_a2.get_config()))[field] == value


def test_an_update_of_a2_takes_2048_images() -> None:
    config = imagenet_a2.get_config()
    assert config.batch_size * config.optimizer.accumulate == 2048
