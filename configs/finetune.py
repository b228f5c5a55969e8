"""Fine-tuning on SIGNS: starts from the weights of a run or a file, and changes them little.

`python main.py --config=configs/finetune.py --config.init_from=runs/demo --workdir=runs/finetuned`
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Returns the fields: a fifth of the learning rate, and less in the parts farther from the head."""
    config = default.get_config()
    config.num_epochs = 10
    config.optimizer.learning_rate = 2e-4
    config.optimizer.warmup_epochs = 1.0
    config.finetune.layer_decay = 0.8
    return config
