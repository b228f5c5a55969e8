"""Train, evaluate and use a residual network: `python main.py --config=configs/signs.py --workdir=runs/`."""

import os
import sys
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

import settings
from errors import UserError

MODES = ("train", "eval", "predict", "summary", "show_batch")

config_flags.DEFINE_config_file("config", None, "Settings of the run: a file in configs/.")
flags.DEFINE_string("workdir", None, "Folder of the run.")
flags.DEFINE_enum("mode", "train", MODES, "What to do.")
flags.DEFINE_enum("split", "test", ("train", "val", "test"), "What --mode=eval evaluates.")
flags.DEFINE_enum("checkpoint", "best", ("best", "last"), "Which checkpoint eval and predict take.")
flags.DEFINE_bool("raw", False, "Take the raw weights rather than their moving average.")
flags.DEFINE_bool("json", False, "Print one JSON object a line rather than a table.")
FLAGS = flags.FLAGS


def main(argv: list[str]) -> int:
    """Runs the mode and returns the exit code."""
    workdir = Path(FLAGS.workdir) if FLAGS.workdir else None
    if workdir is None and not (FLAGS.mode in ("summary", "show_batch") and FLAGS.config):
        raise UserError("--workdir is missing: name the folder of the run, such as runs/signs")
    if FLAGS.mode == "predict":
        if not argv[1:]:
            raise UserError("--mode=predict needs images: name files or folders after the flags")
    elif argv[1:]:
        raise UserError(f"{argv[1]}: not a flag; flags begin with --, see --help")
    if FLAGS.mode == "train" and FLAGS.config is None:
        raise UserError("--config is missing: name a file such as configs/signs.py")
    if FLAGS.config is not None and FLAGS.mode in ("train", "summary", "show_batch"):
        config = FLAGS.config
        settings.check(config)
    else:
        config, _ = settings.load(workdir)
    apply_accelerator_settings(config)

    # JAX reads its settings when it is imported: nothing above may import it.
    import modes

    if FLAGS.mode == "train":
        return modes.train(config, workdir)
    if FLAGS.mode == "eval":
        return modes.evaluate(workdir, FLAGS.split, FLAGS.checkpoint, FLAGS.raw)
    if FLAGS.mode == "predict":
        return modes.predict(workdir, argv[1:], FLAGS.checkpoint, FLAGS.raw, FLAGS.json)
    if FLAGS.mode == "summary":
        return modes.summary(config)
    return modes.show_batch(config, workdir)


def apply_accelerator_settings(config: ConfigDict) -> None:
    """Puts `config.gpu` and the compilation cache into the environment that JAX starts in."""
    gpu = config.gpu
    os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] = str(gpu.memory_fraction)
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = str(gpu.preallocate).lower()
    if gpu.visible_devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu.visible_devices
    if gpu.deterministic:
        flag = "--xla_gpu_deterministic_ops=true"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    if gpu.matmul_precision != "default":
        os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = gpu.matmul_precision
    if config.compilation_cache:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache / "resnet-signs" / "jax"))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; ml_collections runs the config file while it does.

    Raises:
        UserError: a flag or the config file cannot be used.
    """
    try:
        return FLAGS(argv)
    except Exception as error:
        raise UserError(_explain(error, argv)) from error


def _explain(error: Exception, argv: list[str]) -> str:
    files = [arg.partition("=")[2] for arg in argv if arg.startswith("--config=")]
    file = f"config file {files[0]}" if files else "--config"
    if isinstance(error, flags.Error):
        return f"command line: {error}; see --help"
    if isinstance(error, OSError):
        return f"{file}: not found or not readable; give a Python file such as configs/signs.py"
    if "has no attribute 'get_config'" in str(error):
        return f"{file}: has no get_config(); expected get_config() -> ConfigDict"
    if "Did you mean" in str(error):
        return f"command line: no such field of the config: {error.args[0]}"
    return f"{file}: does not run as Python ({type(error).__name__}: {error}); mend it"


def run(argv: list[str]) -> int:
    """Runs the program and turns a user's mistake into one line and exit code 2 (DESIGN D8)."""
    try:
        return main(parse_flags(argv))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(run(sys.argv))
