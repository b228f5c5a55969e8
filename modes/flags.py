"""What the modes share: flags, the parsed command line, and what is said about a wrong one."""

import difflib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from configs import default, rules
from resnet.errors import UserError
from resnet.files import local_path, read_file
from resnet.formats import hub
from resnet.run import CONFIG_FILE
from workdir import settings

if TYPE_CHECKING:
    from resnet.classifier import Classifier


class Flag(NamedTuple):
    """A flag of the command line: one of `choices`, true or false where `default` is, or else text."""

    name: str
    help: str
    default: str | bool | None = None
    choices: tuple[str, ...] = ()
    hint: str = ""  # what to use instead in modes that do not have it


class Mode(NamedTuple):
    """What `--mode=NAME` does.

    `usage` are examples, without `python main.py`. `takes` says what may follow the flags. `trains` says
    whether the settings of the accelerator are those of a training, and `on_hosts` whether several hosts may
    run it together. `default_weights` are used where neither a run nor weights are named. `check` raises a
    UserError if a flag is missing or useless. `run` does the work and returns the exit code.
    """

    help: str
    usage: tuple[str, ...]
    flags: tuple[Flag, ...]
    check: Callable[["Command"], None]
    run: Callable[["Command"], int]
    takes: Literal["nothing", "pictures", "a folder"] = "nothing"
    trains: bool = False
    on_hosts: bool = False
    default_weights: Path | None = None


# Flags that several modes have.
WEIGHTS = Flag(
    "weights",
    "File of weights to use instead of a run, or hf://owner/name[@revision] of the Hugging Face Hub.",
    hint="; a config takes them by --config.init_from",
)
SPLIT = Flag(
    "split",
    "The split to evaluate on; by default test, or val where there are no test images.",
    None,
    ("train", "val", "test"),
)
CHECKPOINT = Flag("checkpoint", "The checkpoint of the run to use.", "best", ("best", "last"))
RAW = Flag("raw", "Use the raw weights rather than their moving average.", False)
JSON = Flag("json", "Print one JSON object a line rather than a table.", False)

# The network that comes with the project: it reads the fingers of a hand, 0 to 5.
HANDS = Path(__file__).parent.parent / "web" / "hands.onnx"

# Fields of a config that count where it names a file of weights. All else comes from the file.
FIELDS_OVER_WEIGHTS = (
    "compute_dtype",
    "model.convolution",
    "data.image_size",
    "data.fit",
    "data.crop",
    "test_time_flip",
    "temperature",
)
FIELDS_OF_MACHINE = ("gpu.", "compilation_cache")  # beginnings of those that change no answer

MAX_FILE_BYTES = 2**20  # of a config file or a file of flags
MISSING_WORKDIR = "--workdir is missing: name the folder of the run, such as runs/signs"
_CONFIG_FLAGS = ("--config", "-config")
# Other names by which people know the flags that all modes have.
ALIASES = {
    **dict.fromkeys(("output", "output_dir", "out", "log_dir", "logdir", "save_dir", "work_dir"), "workdir"),
    **dict.fromkeys(("cfg", "conf"), "config"),
}


class Command:
    """A parsed command line."""

    def __init__(self, mode_name: str, mode: Mode, values: flags.FlagValues, arguments: list[str]) -> None:
        self.mode_name = mode_name
        self.mode = mode
        self.arguments = tuple(arguments)  # what follows the flags
        self.config: ConfigDict | None = values.config
        self.workdir = None if values.workdir is None else Path(_local_path("workdir", values.workdir))
        self._values = values
        self._settings: ConfigDict | None = None

    def __getitem__(self, name: str) -> Any:
        return self._values[name].value

    def is_given(self, name: str) -> bool:
        """Whether the flag `name` stands on the command line."""
        return bool(self._values[name].present)

    @property
    def config_changes(self) -> list[str]:
        """The dotted names of the fields that stand on the command line."""
        return list(config_flags.get_override_values(self._values["config"]))

    @property
    def weights_file(self) -> str | None:
        """The file, folder or `hf://` address to use instead of a run, from --weights or config.init_from."""
        from_config = self.config.get("init_from") if self.config is not None else None
        if self["weights"] is not None:
            return _weights_path("weights", self["weights"])
        if from_config:
            return _weights_path("config.init_from", from_config)
        default = self.mode.default_weights
        return str(default) if default and self.workdir is None and self.config is None else None

    @property
    def run_folder(self) -> Path:
        """The workdir, once `require_workdir` has seen that there is one."""
        if self.workdir is None:
            raise UserError(MISSING_WORKDIR)
        return self.workdir

    def load_classifier(self) -> tuple["Classifier", dict[str, Any]]:
        """Returns the classifier of the file of weights or of the run, and what identifies it in results.

        The `FIELDS_OVER_WEIGHTS` of a config take the place of what the file says.

        Raises:
            UserError: there is no trained run, or the file of weights cannot be used.
        """
        from resnet.classifier import combine, load_trained
        from resnet.pretrained import load_pretrained

        config, file = self.config, self.weights_file
        if not file:
            trained = load_trained(self.run_folder, self["checkpoint"], self["raw"])
            source = {"workdir": str(self.run_folder), "step": trained[0].step, "weights": trained[0].kind}
            return combine(trained), source
        path, source = locate_weights(file)
        if config is None:
            return load_pretrained(path), {"weights": source}
        changes = {name.split(".")[-1]: v for name, v in rules.flatten(config) if name in FIELDS_OVER_WEIGHTS}
        return load_pretrained(path, **changes), {"weights": source}

    def settings(self) -> ConfigDict:
        """Returns the config, checked, or else the settings of the run in the workdir.

        They are checked and read at the first call.

        Raises:
            UserError: the config cannot be used, there is no run in the workdir, or its settings are damaged.
        """
        if self._settings is None:
            self._settings = self._read_settings()
        return self._settings

    def _read_settings(self) -> ConfigDict:
        if self.config is not None:
            rules.check(self.config)
            rules.check_data_memory(self.config)
            if self.mode.trains:
                rules.check_training_memory(self.config)
                for name, reason in rules.fields_without_effect(self.config).items():
                    print(f"note: config.{name} has no effect, as {reason}", file=sys.stderr)
            if self.config.init_from:
                self.config.init_from = _weights_path("config.init_from", self.config.init_from)
            if self.config.data.dir:
                self.config.data.dir = _local_path("config.data.dir", self.config.data.dir)
            return self.config
        if self.weights_file:
            return default.get_config()
        return settings.load(self.run_folder)[0]


def _local_path(flag: str, text: str) -> str:
    """`local_path` of the value of a flag, whose name the error begins with."""
    try:
        return local_path(text)
    except UserError as error:
        raise UserError(f"--{flag}={error}") from None


def _weights_path(flag: str, text: str) -> str:
    """`_local_path`, which leaves an address of the Hugging Face Hub as it is, once it is checked."""
    if not hub.is_address(text):
        return _local_path(flag, text)
    try:
        hub.parse_address(text)
    except UserError as error:
        raise UserError(f"--{flag}={error}") from None
    return text


def locate_weights(file: str) -> tuple[str, str]:
    """Returns the path of weights, and the name that identifies them in results.

    Weights of the Hugging Face Hub are fetched, and the commit is in their name.

    Raises:
        UserError: they cannot be fetched.
    """
    if not hub.is_address(file):
        return file, file
    snapshot = hub.fetch(file)
    return str(snapshot.folder), str(snapshot.address)


def expand(argv: Sequence[str]) -> list[str]:
    """Returns the command line `argv` with the flags of every --flagfile in its place.

    A file of flags has a flag on each line, blank lines, and comments that begin with # or //. It may name
    another one. In the name of the config file `~` is written out, which the shell does not do behind a `=`.

    Raises:
        UserError: a file of flags cannot be read, or leads back to itself. Or there are two config files.
    """
    words = list(_expanded(argv, ()))
    if sum(word.partition("=")[0] in _CONFIG_FLAGS for word in words) > 1:
        raise UserError("--config: is given twice, expected one file of settings; leave out the other")
    for i, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in _CONFIG_FLAGS and equals:
            words[i] = f"{name}={_local_path('config', value)}"
        elif i and words[i - 1] in _CONFIG_FLAGS:
            words[i] = _local_path("config", word)
    return words


def _expanded(words: Sequence[str], above: tuple[str, ...]) -> Iterator[str]:
    """Yields `words` with the content of files of flags, which the files `above` have led to."""
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if word == "--":
            yield word
            yield from rest
        elif name not in ("--flagfile", "-flagfile"):
            yield word
        else:
            file = _local_path("flagfile", value if equals else next(rest, ""))
            yield from _expanded(_lines_of_flags(file, above), (*above, os.path.realpath(file)))


def _lines_of_flags(file: str, above: tuple[str, ...]) -> list[str]:
    if os.path.realpath(file) in above:
        raise UserError(f"--flagfile={file}: leads back to itself; leave out the --flagfile inside of it")
    try:
        text = read_file(Path(file), MAX_FILE_BYTES).decode()
    except FileNotFoundError:
        raise UserError(f"--flagfile={file}: no such file; check the path") from None
    except UserError as error:
        raise UserError(f"--flagfile={error}") from None
    except UnicodeDecodeError:
        raise UserError(f"--flagfile={file}: is not UTF-8, expected text with a flag on each line") from None
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(("#", "//"))]
    for line in lines:
        if not line.startswith("-"):
            raise UserError(f"--flagfile={file}: {line[:80]!r} is not a flag, expected one on each line")
    return lines


def define_flags(argv: list[str], modes: Mapping[str, Mode]) -> flags.FlagValues:
    """Defines the flags of all `modes` for the command line `argv`, which is not parsed yet."""
    values = flags.FlagValues()
    shared: dict[str, Any] = {"flag_values": values}
    config_flags.DEFINE_config_file(
        "config", None, "File of settings, see configs/.", sys_argv=argv, **shared
    )
    flags.DEFINE_string("workdir", None, "Folder of the run, or for what the mode writes.", **shared)
    flags.DEFINE_enum("mode", "train", list(modes), "What to do.", **shared)
    flags.DEFINE_bool(
        "help", False, "Print the modes, or with --mode the flags of one.", short_name="h", **shared
    )
    flags.DEFINE_bool("version", False, "Print the version.", **shared)
    for flag in {flag.name: flag for mode in modes.values() for flag in mode.flags}.values():
        if flag.choices:
            flags.DEFINE_enum(flag.name, flag.default, flag.choices, flag.help, **shared)
        elif isinstance(flag.default, bool):
            flags.DEFINE_bool(flag.name, flag.default, flag.help, **shared)
        else:
            flags.DEFINE_string(flag.name, flag.default, flag.help, **shared)
    return values


def parse(values: flags.FlagValues, argv: list[str]) -> list[str]:
    """Parses `argv` into `values`, which runs the config file; returns what follows the flags.

    Raises:
        UserError: a flag or the config file cannot be used.
    """
    file = _config_file(argv)
    if file is not None:
        _check_config_file(file)
    for argument in argv[1:]:
        if match := re.match(r"--?(?:no)?config\.([\w.-]+)", argument):
            rules.check_is_field(match[1])
            if file is None:
                raise UserError(f"{argument}: needs a --config before it, such as --config=configs/signs.py")
    try:
        rest = values(argv)
        # ml_collections keeps the error of a file that it could not open until the first use.
        is_config = hasattr(values.config, "to_dict")
    except flags.UnrecognizedFlagError as error:
        raise UserError(_explain_unknown_flag(error.flagname, values)) from None
    except (Exception, SystemExit) as error:  # The config file runs here.
        raise UserError(_explain(error, file)) from error
    if file is not None and not is_config:
        kind = type(values.config).__name__
        raise UserError(f"config file {file}: get_config() returns {kind}, expected a ConfigDict")
    return rest[1:]


def _check_config_file(file: str) -> None:
    """Checks that `file` can be read as a config, whose name may have an argument behind a colon.

    Raises:
        UserError: it is missing, no ordinary file, or too large.
    """
    try:
        read_file(Path(file.partition(":")[0]), MAX_FILE_BYTES)
    except FileNotFoundError:
        raise UserError(f"config file {file}: no such file; expected one such as configs/signs.py") from None
    except UserError as error:
        raise UserError(f"config file {error}") from None


def _config_file(argv: list[str]) -> str | None:
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        name, equals, value = argument.partition("=")
        if name in _CONFIG_FLAGS:
            return value if equals else following
    return None


def _explain_unknown_flag(name: str, values: flags.FlagValues) -> str:
    word = name.replace("-", "_")
    known = [flag for flag in values if "." not in flag]
    nearest = ALIASES.get(word) or next(iter(difflib.get_close_matches(word, known, n=1, cutoff=0.8)), None)
    if nearest is None and (field := rules.suggest_field(word)):
        nearest = f"config.{field}"
    return f"--{name}: no such flag; {f'did you mean --{nearest}?' if nearest else 'see --help'}"


def _explain(error: Exception, file: str | None) -> str:
    """Says in one line why parsing the flags, or running the config file, failed."""
    message = str(error)
    if "Error whilst parsing config file" in message:
        message = message.strip().splitlines()[-1]
    elif match := re.match(r"flag --config\.([\w.]+)=(.*?): ", message, re.DOTALL):
        return f"config.{match[1]}={match[2]!r}: expected {rules.expected_type_of(match[1])}"
    elif isinstance(error, flags.Error):
        return f"command line: {message}; see --help"
    elif isinstance(error, SystemExit):
        message = f"it ends the program by sys.exit({message})"
    elif "has no attribute 'get_config'" in message:
        return f"config file {file}: has no get_config(); expected get_config() -> ConfigDict"
    else:
        message = f"{type(error).__name__}: {message}"
    return f"config file {file}: does not run ({message}); expected Python that gives a ConfigDict"


def check(command: Command, modes: Mapping[str, Mode]) -> None:
    """Checks that the mode has what it needs, and nothing that it would not use.

    Raises:
        UserError: says what is missing or useless.
    """
    mode, name = command.mode, command.mode_name
    if command.arguments and mode.takes == "nothing":
        first = command.arguments[0]
        if first in modes:
            raise UserError(f"{first}: not a flag; did you mean --mode={first}?")
        raise UserError(f"{first}: not a flag; flags begin with --, see --help")
    if mode.takes == "pictures" and not command.arguments:
        raise UserError(f"--mode={name} needs images: name files or folders after the flags")
    for flag in _flags_of_other_modes(mode, modes):
        if command.is_given(flag.name):
            users = ", ".join(user for user, other in modes.items() if flag in other.flags)
            raise UserError(f"--{flag.name}: not for --mode={name}; it is for {users}{flag.hint}")
    joins = {"hosts.coordinator", "hosts.number", "hosts.index"} & {*_changed_fields(command.config)}
    if joins and not mode.on_hosts:
        raise UserError(f"config.hosts: --mode={name} runs on one host; leave out all of config.hosts")
    mode.check(command)


def _changed_fields(config: ConfigDict | None) -> list[str]:
    """Returns the names of the fields of `config` that differ from their defaults."""
    defaults = rules.default_fields()
    return [field for field, value in rules.flatten(config or ConfigDict()) if value != defaults.get(field)]


def _flags_of_other_modes(mode: Mode, modes: Mapping[str, Mode]) -> Iterator[Flag]:
    own = {flag.name for flag in mode.flags}
    for flag in {flag.name: flag for other in modes.values() for flag in other.flags}.values():
        if flag.name not in own:
            yield flag


def require_config(command: Command) -> None:
    """Checks that there is a --config.

    Raises:
        UserError: there is none.
    """
    if command.config is None:
        raise UserError("--config is missing: name a file such as configs/signs.py")


def refuse_config(command: Command, hint: str = "") -> None:
    """Checks that there is no --config, for modes that take the settings of the run.

    Raises:
        UserError: there is one.
    """
    if command.config is not None:
        raise UserError(
            f"--config: --mode={command.mode_name} takes the settings of the run; leave out --config{hint}"
        )


def require_workdir(command: Command) -> None:
    """Checks that there is a --workdir, for modes that use a run or start one.

    Raises:
        UserError: there is none.
    """
    if command.workdir is None:
        more = ", or a file by --weights" if WEIGHTS in command.mode.flags else ""
        raise UserError(f"{MISSING_WORKDIR}{more}")


def require_run(command: Command) -> None:
    """Checks that there is a --workdir and no --config, for modes that take everything from a run.

    Raises:
        UserError: the one is missing, or the other is there.
    """
    refuse_config(command)
    require_workdir(command)


def require_run_or_weights(command: Command) -> None:
    """Checks that there is a run, or a file of weights and a folder to write to that holds no run.

    Raises:
        UserError: one is missing, or there are both.
    """
    if not command.weights_file:
        require_workdir(command)
        return
    if command.workdir is None:
        raise UserError(f"--workdir is missing: name the folder that --mode={command.mode_name} writes to")
    refuse_run_beside_weights(command)


def require_run_or_weights_alone(command: Command) -> None:
    """Checks what `require_run_or_weights` does, and that there is no config.

    Raises:
        UserError: something is missing, or there is too much.
    """
    refuse_weights_and_config(command)
    refuse_config(command)
    require_run_or_weights(command)


def refuse_run_beside_weights(command: Command) -> None:
    """Checks that neither the workdir nor a flag is about a run, as there is a file of weights.

    Raises:
        UserError: one is.
    """
    for name in ("checkpoint", "raw"):
        refuse_flag(command, name, "a file has one set of weights")
    if command.workdir is not None and os.path.exists(command.workdir / CONFIG_FILE):
        raise UserError(
            f"--workdir={command.workdir}: holds a run, but the weights are those of a file; expected the one"
            " or the other, or another folder for what is written"
        )


def refuse_run_and_weights(command: Command) -> None:
    """Checks that there is either a run or a file of weights, which may be the default of the mode.

    Raises:
        UserError: there are both, or a flag is about a run that is not there.
    """
    if command["weights"] and command.workdir is not None:
        raise UserError("--weights and --workdir: expected one network, of the file or of the run")
    if command.weights_file:
        refuse_run_beside_weights(command)


def refuse_weights_and_config(command: Command) -> None:
    """Checks that weights are named once.

    Raises:
        UserError: there are both --weights and --config.
    """
    if command["weights"] and command.config is not None:
        raise UserError("--weights and --config: expected one; in a config, --config.init_from is the file")


def refuse_flag(command: Command, name: str, reason: str) -> None:
    """Checks that the flag `name` is not given.

    Raises:
        UserError: it is; `reason` says why it is useless.
    """
    if command.is_given(name):
        raise UserError(f"--{name}: {reason}; leave it out")


def list_modes(modes: Mapping[str, Mode]) -> str:
    """Returns the text of --help: how to use the program, and a line for every mode."""
    width = max(map(len, modes))
    lines = [f"  --mode={name:<{width}}  {mode.help}" for name, mode in modes.items()]
    return "\n".join(
        [
            "usage: python main.py --config=FILE --workdir=FOLDER [--mode=MODE] [FLAGS] [PICTURES]",
            "",
            "  python main.py --config=configs/signs.py --workdir=runs/signs     trains; again: goes on",
            "  python main.py --mode=predict --workdir=runs/signs hand.jpg       labels a picture",
            "",
            "modes; --help --mode=MODE lists the flags of one:",
            *lines,
            "",
            "Every field of a config is a flag too, such as --config.optimizer.learning_rate=0.01;",
            "configs/default.py lists them all. --version prints the version.",
        ]
    )


def describe_mode(name: str, mode: Mode) -> str:
    """Returns the text of --help for one mode: what it does, examples, and its flags."""
    common = (
        Flag("config", "File of settings, such as configs/signs.py."),
        Flag("workdir", "Folder of the run, or for what the mode writes."),
    )
    names = {
        flag: f"--{flag.name}" + (f"={'|'.join(flag.choices)}" if flag.choices else "")
        for flag in (*common, *mode.flags)
    }
    width = max(map(len, names.values()))
    lines = []
    for flag, text in names.items():
        default_text = f" Default: {flag.default}." if flag.choices and flag.default else ""
        lines.append(f"  {text:<{width}}  {flag.help}{default_text}")
    usage = [f"  python main.py {example}" for example in mode.usage]
    return "\n".join([f"--mode={name}: {mode.help}", "", *usage, "", "flags:", *lines])
