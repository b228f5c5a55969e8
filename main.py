"""Train, evaluate and use a residual network: `python main.py --config=configs/signs.py --workdir=runs/`."""

import os
import re
import sys
from pathlib import Path

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

import settings
from configs import default
from errors import UserError, exit_code

USAGE = """\
python main.py --config=configs/signs.py --workdir=runs/signs              train; again: go on
python main.py --mode=eval --workdir=runs/signs [--split=val]              accuracy, confusion matrix
python main.py --mode=eval --workdir=runs/signs --corruptions=standard      under noise, blur, weather
python main.py --mode=eval --workdir=runs/signs --config=configs/rendered.py  on other data
python main.py --mode=eval --weights=resnet50.pth [--crops=10] folder/      top-1, top-5 on labelled pictures
python main.py --mode=report --workdir=runs/signs                           report/index.html, anew
python main.py --mode=predict --workdir=runs/signs hand.jpg folder/        label pictures
python main.py --mode=summary --config=configs/signs.py                    table of layers
python main.py --mode=features --workdir=runs/signs --layer=stage3 folder/  features of pictures, as .npz
python main.py --mode=probe --workdir=runs/signs                            k-NN, linear probe of each stage
python main.py --mode=export --workdir=runs/signs --format=keras           for other frameworks
python main.py --mode=show_batch --workdir=runs/signs                       picture of a training batch
python main.py --mode=audit --config=configs/signs.py --workdir=runs/audit  duplicates, leaks, conflicts
python main.py --mode=lr_find --config=configs/signs.py --workdir=runs/lr   a learning rate to try

Every field of the config is a flag too, such as --config.optimizer.learning_rate=0.01; configs/default.py
lists them all.
"""
MODES = (
    "train",
    "eval",
    "report",
    "predict",
    "features",
    "probe",
    "summary",
    "show_batch",
    "export",
    "audit",
    "lr_find",
)
IMAGE_MODES = ("predict", "features")
WEIGHTS_MODES = ("eval", "predict", "features")
RUN_MODES = ("eval", "report", "predict", "features", "probe", "export")
FLAG_MODES = {  # which modes each flag is for; any other flag is for all, or has rules of its own
    "split": ("eval", "report"),
    "corruptions": ("eval",),
    "format": ("export",),
    "layer": ("features",),
    "pool": ("features",),
    "checkpoint": RUN_MODES,
    "raw": RUN_MODES,
    "json": ("eval", "predict", "audit"),
}
POOLS = ("avg", "max", "none")
EXPORT_FORMATS = ("torchvision", "huggingface", "keras", "safetensors")
SPLITS = ("train", "val", "test")
DATASET_CLASSES = 6  # of every data set there is


def define_flags(argv: list[str]) -> flags.FlagValues:
    """The flags of the command line `argv`, not yet parsed."""
    values = flags.FlagValues()
    shared = {"flag_values": values}
    config_flags.DEFINE_config_file(
        "config", None, "File of settings, see configs/.", sys_argv=argv, **shared
    )
    flags.DEFINE_string("workdir", None, "Folder of the run, or else of what the mode writes.", **shared)
    flags.DEFINE_string("weights", None, "File of weights to use instead of a run.", **shared)
    flags.DEFINE_enum("mode", "train", MODES, "What to do.", **shared)
    flags.DEFINE_enum("split", "test", SPLITS, "What eval and report measure on.", **shared)
    groups = ("standard", "extra")
    flags.DEFINE_enum("corruptions", None, groups, "Let eval corrupt the images, see datasets/.", **shared)
    flags.DEFINE_enum("crops", "1", ("1", "10"), "Of a picture, for eval to average over.", **shared)
    flags.DEFINE_enum("format", "safetensors", EXPORT_FORMATS, "What --mode=export writes.", **shared)
    flags.DEFINE_string("layer", "pooled", "Whose output --mode=features writes, as stage3.block2.", **shared)
    flags.DEFINE_enum("pool", "avg", POOLS, "What --mode=features does over positions.", **shared)
    flags.DEFINE_enum("checkpoint", "best", ("best", "last"), "Which one to evaluate or use.", **shared)
    flags.DEFINE_bool("raw", False, "Take the raw weights rather than their moving average.", **shared)
    flags.DEFINE_bool("json", False, "Print one JSON object a line rather than a table.", **shared)
    flags.DEFINE_bool("help", False, "Print this.", short_name="h", **shared)
    return values


def main(argv: list[str]) -> int:
    """Runs the mode that the command line asks for and returns the exit code."""
    # Warnings of Orbax, ml_collections and XLA are addressed to us, not to the user.
    logging.set_verbosity(logging.ERROR)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    values = define_flags(argv)
    arguments = parse_flags(values, argv)[1:]
    if values.help:
        print(USAGE + values.get_help())
        return 0
    mode, weights = values.mode, values.weights
    check_flags(values, arguments)
    workdir = Path(values.workdir or ".")
    if values.config is not None:
        config, num_classes = values.config, DATASET_CLASSES
        settings.check(config)
    elif weights:
        config = default.get_config()
    else:
        config, class_names = settings.load(workdir)
        num_classes = len(class_names)
    apply_accelerator_settings(config, training=mode in ("train", "lr_find"))

    # JAX reads its settings when it is imported: nothing above may import it.
    if mode == "train" and not os.path.exists(workdir / "summary.json"):
        prefetch_training_step(config)
    import modes

    if mode in IMAGE_MODES or arguments:
        weights = weights or (values.config and values.config.init_from)
        classifier, source = modes.load_classifier(
            workdir, weights, values.config, values.checkpoint, values.raw
        )
    match mode:
        case "train":
            return modes.train(config, workdir)
        case "eval" if arguments:
            written_to = workdir if values.workdir else None
            return modes.evaluate_folder(
                classifier, source, Path(arguments[0]), int(values.crops), written_to, values.json
            )
        case "eval":
            return modes.evaluate(
                workdir,
                values.split,
                values.corruptions,
                values.checkpoint,
                values.raw,
                values.json,
                values.config and values.config.data,
            )
        case "report":
            return modes.write_report(workdir, values.split, values.checkpoint, values.raw)
        case "predict":
            return modes.predict(classifier, arguments, values.json)
        case "features":
            return modes.features(classifier, workdir, arguments, values.layer, values.pool)
        case "probe":
            return modes.probe(values.config, workdir, values.checkpoint, values.raw)
        case "export":
            return modes.export(workdir, values.format, values.checkpoint, values.raw)
        case "summary":
            return modes.summary(config, num_classes, of_run=values.config is None)
        case "show_batch":
            return modes.show_batch(config, workdir)
        case "audit":
            return modes.audit(config, workdir, values.json)
        case "lr_find":
            return modes.lr_find(config, workdir)


def check_flags(values: flags.FlagValues, arguments: list[str]) -> None:
    """Checks that the mode has what it needs, and nothing that it would pass over.

    Raises:
        UserError: tells what is missing, or too much.
    """
    mode, weights, config = values.mode, values.weights, values.config
    on_folder = mode == "eval" and bool(arguments)
    from_config = mode in ("eval", "probe") and config is not None and bool(config.get("init_from"))
    from_file = bool(weights) or from_config
    if mode in IMAGE_MODES and not arguments:
        raise UserError(f"--mode={mode} needs images: name files or folders after the flags")
    if arguments and mode not in (*IMAGE_MODES, "eval"):
        raise UserError(f"{arguments[0]}: not a flag; flags begin with --, see --help")
    if mode == "eval" and len(arguments) > 1:
        raise UserError(f"--mode=eval: found {len(arguments)} folders of images; expected one")
    if mode == "eval" and from_file and not arguments:
        raise UserError(
            "--mode=eval needs images: name the folder that has one for each class after the flags"
        )
    if weights and mode not in WEIGHTS_MODES:
        raise UserError(
            f"--weights: not for --mode={mode}; expected one of {', '.join(WEIGHTS_MODES)}, or a config with"
            " --config.init_from"
        )
    if weights and config is not None:
        raise UserError("--weights and --config: expected one; in a config, --config.init_from is the file")
    if mode == "train" and config is None:
        raise UserError("--config is missing: name a file such as configs/signs.py")
    if config is not None and (mode in ("report", "export", *IMAGE_MODES) or (on_folder and not from_file)):
        raise UserError(
            f"--config: --mode={mode} takes the settings of the run; leave out --config"
            + (", or name a file of weights by --config.init_from" if on_folder else "")
        )
    _check_workdir(values, from_file)
    for name, its_modes in FLAG_MODES.items():
        if values[name].present and mode not in its_modes:
            raise UserError(f"--{name}: not for --mode={mode}; it is for {', '.join(its_modes)}")
    if mode == "eval" and config is not None and not from_file:
        of_network = {f"data.{name}" for name in settings.PREPARATION if name != "image_size"}
        for name in config_flags.get_override_values(values["config"]):
            of_data = name.startswith("data.") and name not in of_network
            if not of_data and not name.startswith(("gpu.", "compilation_cache")):
                raise UserError(
                    f"--config.{name}: --mode=eval takes the data of --config, and all else from the run,"
                    " how images are prepared included; leave it out"
                )
    for name, passed_over, reason in (
        ("checkpoint", from_file, "a file has one set of weights"),
        ("raw", from_file, "a file has one set of weights"),
        ("split", on_folder, "a folder of images is measured whole"),
        ("corruptions", on_folder, "is for the images of a data set, not for those of a folder"),
        ("crops", not on_folder, "is for --mode=eval on a folder of images, named after the flags"),
    ):
        if passed_over and values[name].present:
            raise UserError(f"--{name}: {reason}; leave it out")


def _check_workdir(values: flags.FlagValues, from_file: bool) -> None:
    mode, workdir = values.mode, values.workdir
    if not workdir and mode in ("features", "probe") and from_file:
        raise UserError(f"--workdir is missing: name the folder that --mode={mode} writes to")
    needless = from_file or (mode == "summary" and values.config is not None)
    if not workdir and not needless:
        more = ", or a file by --weights" if mode in WEIGHTS_MODES else ""
        raise UserError(f"--workdir is missing: name the folder of the run, such as runs/signs{more}")
    if workdir and from_file and mode == "predict":
        raise UserError("--weights and --workdir: expected one, the file or the run to predict with")
    if workdir and from_file and os.path.exists(Path(workdir, settings.CONFIG_FILE)):
        raise UserError(
            f"--workdir={workdir}: holds a run, but the weights are those of a file; expected the one or the"
            " other, or another folder for what is written"
        )


def apply_accelerator_settings(config: ConfigDict, training: bool) -> None:
    """Puts `config.gpu` and the compilation cache into the environment that JAX starts in.

    Which devices, and how much of their memory, only concerns `training`: a run may be used on another
    machine, or beside another training.
    """
    gpu = config.gpu
    if training:
        os.environ.pop("XLA_PYTHON_CLIENT_MEM_FRACTION", None)  # The old name; JAX refuses to see both.
        os.environ["XLA_CLIENT_MEM_FRACTION"] = str(gpu.memory_fraction)
        if gpu.visible_devices:
            os.environ["CUDA_VISIBLE_DEVICES"] = gpu.visible_devices
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = str(training and gpu.preallocate).lower()
    if gpu.deterministic:
        flag = "--xla_gpu_deterministic_ops=true"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    if gpu.matmul_precision != "default":
        os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = gpu.matmul_precision
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if config.compilation_cache and os.path.isabs(cache):
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(cache, "resnet-signs", "jax"))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


def prefetch_training_step(config: ConfigDict) -> None:
    """Begins to load the training step, if an earlier start kept it, while the rest is imported.

    Raises:
        UserError: the batch does not divide evenly over the devices.
    """
    import kept_program
    from input_pipeline import make_mesh, replicated

    if config.seeds:
        from replicas import trains_together

        if trains_together(config.seeds_together):
            return  # That is another program, on another mesh.
    kept_program.prefetch(config.to_dict(), replicated(make_mesh(config.batch_size)))


def parse_flags(values: flags.FlagValues, argv: list[str]) -> list[str]:
    """Parses `argv` into `values`, which runs the config file; returns `argv` without the flags.

    Raises:
        UserError: a flag or the config file cannot be used.
    """
    file = _config_file(argv)
    for argument in argv[1:]:
        if match := re.match(r"--?(?:no)?config\.([\w.]+)", argument):
            settings.check_is_field(match[1])
            if file is None:
                raise UserError(f"{argument}: needs a --config before it, such as --config=configs/signs.py")
    try:
        rest = values(argv)
        # ml_collections keeps the error of a file that it could not open until the first use.
        is_config = hasattr(values.config, "to_dict")
    except Exception as error:
        raise UserError(_explain(error, file)) from error
    if file is not None and not is_config:
        found = type(values.config).__name__
        raise UserError(f"config file {file}: get_config() returns {found}, expected a ConfigDict")
    return rest


def _config_file(argv: list[str]) -> str | None:
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        name, equals, value = argument.partition("=")
        if name in ("--config", "-config"):
            return value if equals else following
    return None


def _explain(error: Exception, file: str | None) -> str:
    """Says in one line why parsing the flags, or running the config file, failed."""
    message = str(error)
    if "Error whilst parsing config file" in message:
        message = message.strip().splitlines()[-1]
    elif match := re.match(r"flag --config\.([\w.]+)=(.*?): ", message, re.DOTALL):
        return f"config.{match[1]}={match[2]!r}: expected {settings.expected_type(match[1])}"
    elif isinstance(error, flags.Error):
        return f"command line: {message}; see --help"
    elif isinstance(error, OSError):
        found = "no such file" if not os.path.exists(file) else "cannot be read as Python"
        return f"config file {file}: {found}; expected one such as configs/signs.py"
    elif "has no attribute 'get_config'" in message:
        return f"config file {file}: has no get_config(); expected get_config() -> ConfigDict"
    else:
        message = f"{type(error).__name__}: {message}"
    return f"config file {file}: does not run ({message}); expected Python that gives a ConfigDict"


def run(argv: list[str]) -> int:
    """Runs the program and returns its exit code, see `exit_code`."""
    return exit_code(lambda: main(argv))


if __name__ == "__main__":
    sys.exit(run(sys.argv))
