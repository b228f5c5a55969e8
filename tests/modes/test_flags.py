"""Command lines that are refused: unknown flags, flags that do not go together, unusable config files."""

import os
from pathlib import Path
from typing import get_args

import pytest

from evaluation import corruptions
from modes import eval, export, features, load_modes
from modes.flags import ALIASES, CHECKPOINT, define_flags
from resnet.checkpoint import Which
from resnet.classifier import Pool
from resnet.formats import EXPORT_FORMATS, PRECISIONS
from tests.command_line import DEFAULT_CONFIG, ROOT, SHORT_TRAINING, Run, assert_refused, assert_succeeded

CONFIG_FILES = {
    "syntax.py": ("def get_config(:", "SyntaxError"),
    "nothing.py": ("x = 1", "has no get_config()"),
    "none.py": ("def get_config():\n    return None", "returns NoneType, expected a ConfigDict"),
    "dictionary.py": ("def get_config():\n    return {}", "returns dict"),
    "raises.py": ("def get_config():\n    raise ValueError('oh')", "ValueError: oh"),
    "imports.py": ("import no_such_module", "No module named 'no_such_module'"),
    "binary.py": ("\0\0", "does not run"),
    "exits.py": ("import sys; sys.exit(0)", "it ends the program by sys.exit(0)"),
    "exits_later.py": ("def get_config():\n    raise SystemExit(3)", "it ends the program by sys.exit(3)"),
    "opens.py": ("def get_config():\n    open('/no/such')", "No such file or directory: '/no/such'"),
    "recurses.py": ("def get_config():\n    return get_config()", "RecursionError"),
    "frozen.py": (
        "from ml_collections import FrozenConfigDict\ndef get_config():\n    return FrozenConfigDict()",
        "FrozenConfigDict is immutable",
    ),
    "huge.py": ("#" * 2**20 + "#", "has more than 1,048,576 bytes"),
    "latin.py": ("def get_config():\n    return '\udce9'", "does not run"),
}


@pytest.mark.parametrize("name", CONFIG_FILES)
def test_config_files_that_cannot_be_used(run: Run, tmp_path: Path, name: str) -> None:
    content, reason = CONFIG_FILES[name]
    (tmp_path / name).write_text(content, errors="surrogateescape")
    result = run(f"--config={tmp_path / name}", f"--workdir={tmp_path / 'run'}")
    assert_refused(result, f"config file {tmp_path / name}", reason)
    assert not (tmp_path / "run").exists()


def test_config_file_that_is_not_there(run: Run, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    assert_refused(run(f"--config={tmp_path / 'no.py'}", f"--workdir={workdir}"), "no.py: no such file")
    assert_refused(run("--config", tmp_path / "no.py", "--workdir", workdir), "no.py: no such file")
    assert_refused(run(f"--config={tmp_path}", f"--workdir={workdir}"), "is a folder, expected an ordinary")
    os.mkfifo(tmp_path / "pipe.py")
    assert_refused(run(f"--config={tmp_path / 'pipe.py'}", f"--workdir={workdir}"), "is a pipe, expected an")
    assert_refused(run("--config=/dev/zero", f"--workdir={workdir}"), "config file /dev/zero: is a device")
    assert_refused(run(f"--workdir={workdir}"), "--config is missing")
    assert_refused(run("--config=", f"--workdir={workdir}"), "--config='': is an empty path")
    # Of two, the fields on the command line would be those of the first, and the rest of the second.
    assert_refused(run(DEFAULT_CONFIG, DEFAULT_CONFIG, f"--workdir={workdir}"), "--config: is given twice")
    assert not workdir.exists()


# Files of flags


def test_a_file_of_flags_may_hold_the_config_and_name_another_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "all.txt").write_text(f"# a comment\n\n--mode=summary\n--flagfile={tmp_path / 'more.txt'}\n")
    (tmp_path / "more.txt").write_text(f"{DEFAULT_CONFIG}\n  --config.model.depth=18  \n// another\n")
    result = run(f"--flagfile={tmp_path / 'all.txt'}", "--config.data.image_size=32")
    assert_succeeded(result)
    assert result.out == run("--mode=summary", *SHORT_TRAINING[:1], "--config.model.depth=18",
                             "--config.data.image_size=32").out  # fmt: skip


def test_files_of_flags_that_cannot_be_used(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "flags.txt"
    for name, reason in (
        (tmp_path / "no.txt", "no.txt: no such file; check the path"),
        ("", "is an empty path"),
        (tmp_path, "is a folder, expected an ordinary file"),
        ("/dev/zero", "is a device, expected an ordinary file"),
        ("gs://bucket/flags", "is a URL"),
    ):
        assert_refused(run(f"--flagfile={name}"), "--flagfile=", reason)
    for content, reason in (
        (f"--flagfile={file}".encode(), "leads back to itself"),
        (b"--mode=summary\n\xff", "is not UTF-8"),
        (b"config.seed=1", "'config.seed=1' is not a flag, expected one on each line"),
        (b"--no_such_flag", "--no_such_flag: no such flag"),
        (b"--workdir=a\0b", "holds a null byte"),
        (b"#" * 2**21, "has more than"),
    ):
        file.write_bytes(content)
        assert_refused(run(f"--flagfile={file}"), reason)
    assert_refused(run("--flagfile"), "is an empty path")


# Paths


def test_the_home_folder_is_written_out_wherever_a_path_is_taken(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.py").write_text("from configs.default import get_config")
    for flags, missing in (
        (["--mode=predict", "--weights=~/w", "a.jpg"], tmp_path / "w"),
        (["--mode=predict", "--workdir=~/run", "a.jpg"], tmp_path / "run"),
        (["--config=~/no.py"], tmp_path / "no.py"),
        (["--config", "~/no.py"], tmp_path / "no.py"),
        (["--flagfile=~/no.txt"], tmp_path / "no.txt"),
        (["--config=~/c.py", "--workdir=~/run", "--config.init_from=~/w"], tmp_path / "w"),
        (["--config=~/c.py", "--workdir=~/run", "--config.data.dir=~/d"], tmp_path / "d"),
    ):
        assert_refused(run(*flags), str(missing))
    assert {path.name for path in tmp_path.iterdir()} <= {"c.py", "pictures"}


@pytest.mark.parametrize(
    "url", ["gs://bucket/x", "s3://b/x", "hf:/a/b", "https://a.b/c", "file:///x", "gs:/b"]
)
def test_urls_are_no_folders(run: Run, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for flags in (
        [DEFAULT_CONFIG, f"--workdir={url}"],
        ["--mode=predict", "a.jpg", f"--weights={url}"],
        [f"--config={url}"],
        [DEFAULT_CONFIG, "--workdir=run", f"--config.init_from={url}"],
        [DEFAULT_CONFIG, "--workdir=run", f"--config.data.dir={url}"],
    ):
        assert_refused(run(*flags), f"{flags[-1].partition('=')[0]}={url}: is a URL")
    assert list(tmp_path.iterdir()) == []


def test_the_home_of_nobody_is_refused(run: Run) -> None:
    assert_refused(
        run("--workdir=~nobody_here/x", DEFAULT_CONFIG), "--workdir=~nobody_here/x: there is no such"
    )


def test_fields_without_effect_are_told_before_a_training(run: Run, tmp_path: Path) -> None:
    result = run(*SHORT_TRAINING, f"--workdir={tmp_path / 'run'}", f"--config.data.dir={tmp_path / 'no'}",
                 "--config.data.rendered_share=0.5")  # fmt: skip
    note, error = result.err.splitlines()
    assert note == "note: config.data.rendered_share has no effect, as data.rendered_size is 0"
    assert error.startswith("error: ")


BAD_FLAGS = {
    "--config.optimizer.learning_rat=1": "did you mean config.optimizer.learning_rate?",
    "--config.learning_rate=1": "did you mean config.optimizer.learning_rate?",
    "--config.model=18": "config.model: no such field",
    "--noconfig.gpu.prealocate": "did you mean config.gpu.preallocate?",
    "--config.batch_size=many": "config.batch_size='many': expected a whole number",
    "--config.batch_size=1.5": "config.batch_size='1.5': expected a whole number",
    "--config.gpu.preallocate=maybe": "expected true or false",
    "--config.gpu.memory_fraction=1.5": "config.gpu.memory_fraction=1.5",
    "--config.data.mean=1": "expected 3 numbers",
    "--config.model.depth=42": "expected one of 16, 18, 20",
    "--config.batch_size=61": "larger than the 60 training images",
    "--config.data.image_size=31": "at least 32 pixels",
    "--config.augment.early_size=64": "does not make images smaller, as data.image_size=64",
    "--config.augment.early_size=48": "has no effect without augment.early_share",
    "--config.augment.early_share=0.5": "has no effect without augment.early_size",
    "--config.data.dir=/no/such/folder": "/no/such/folder",
    "--batch=3": "batch",
    "--mode=evl": "train|eval|report|predict",
    "stray": "stray: not a flag",
    # Names that people know from elsewhere.
    "predict": "predict: not a flag; did you mean --mode=predict?",
    "--lr=1": "--lr: no such flag; did you mean --config.optimizer.learning_rate?",
    "--batch-size=3": "--batch-size: no such flag; did you mean --config.batch_size?",
    "--output_dir=runs": "--output_dir: no such flag; did you mean --workdir?",
    "--nonsense": "--nonsense: no such flag; see --help",
    "--config.lr=1": "config.lr: no such field; did you mean config.optimizer.learning_rate?",
    "--config.optimizer.lr=1": "no such field; did you mean config.optimizer.learning_rate?",
    "--config.wd=1": "config.wd: no such field; did you mean config.optimizer.weight_decay?",
    "--config.mixup=1": "config.mixup: no such field; did you mean config.augment.mixup?",
}


@pytest.mark.parametrize("flag", BAD_FLAGS)
def test_flags_that_cannot_be_used(run: Run, tmp_path: Path, shared_signs_dir: Path, flag: str) -> None:
    workdir = tmp_path / "run"
    result = run(*SHORT_TRAINING, f"--config.data.dir={shared_signs_dir}", f"--workdir={workdir}", flag)
    assert_refused(result, BAD_FLAGS[flag])
    assert not workdir.exists()


def test_mode_without_its_flag_is_suggested(run: Run) -> None:
    assert_refused(run("predict", "x.jpg"), "predict: not a flag; did you mean --mode=predict?")


def test_field_without_a_config_file(run: Run) -> None:
    assert_refused(run("--config.lr=1"), "did you mean config.optimizer.learning_rate?")
    assert_refused(run("--config.optimizer.learning_rate=1"), "needs a --config before it, such as --config=")


def test_workdir_that_cannot_be_written(run: Run, tmp_path: Path, shared_signs_dir: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for mode in ("train", "show_batch"):
        flags = [f"--mode={mode}", *SHORT_TRAINING, f"--config.data.dir={shared_signs_dir}"]
        assert_refused(run(*flags, f"--workdir={file / 'run'}"), str(file), "cannot be written")
    assert file.read_text() == "mine"


def test_paths_that_are_too_long(run: Run, tmp_path: Path, shared_signs_dir: Path) -> None:
    path = tmp_path / ("a" * 300)
    train = run(*SHORT_TRAINING, f"--config.data.dir={shared_signs_dir}", f"--workdir={path}")
    assert_refused(train, str(path), "cannot be written")
    assert_refused(run("--mode=predict", f"--weights={path}", "a.jpg"), str(path))
    assert_refused(run("--mode=predict", f"--workdir={path}", "a.jpg"), str(path))


@pytest.mark.parametrize("mode", ["eval", "summary", "report"])
def test_modes_without_a_trained_run(run: Run, tmp_path: Path, mode: str) -> None:
    assert_refused(run(f"--mode={mode}", f"--workdir={tmp_path}"), "no trained run here")
    assert_refused(run(f"--mode={mode}"), "--workdir is missing")
    assert list(tmp_path.iterdir()) == []


def test_modes_of_a_run_take_no_config(run: Run, untrained_run: Path) -> None:
    assert_refused(run("--mode=report", DEFAULT_CONFIG, f"--workdir={untrained_run}"), "leave out --config")
    assert_refused(run("--mode=eval", f"--workdir={untrained_run}", "--config.seed=1"), "needs a --config")
    assert_refused(run("--mode=predict", f"--workdir={untrained_run}"), "needs images")


# Flags that do not go together

WITH_CONFIG = f"--config={ROOT / 'configs' / 'imagenet.py'}"
COMBINATIONS = {
    "eval photos": "--workdir is missing: name the folder of the run, such as runs/signs, or a file by",
    "predict --weights=w --workdir=RUN a.jpg": "--weights and --workdir: expected one network, of",
    "predict --weights=w": "--mode=predict needs images",
    "predict --weights=w --raw a.jpg": "--raw: a file has one set of weights; leave it out",
    "predict --weights=w --crops=10 a.jpg": "--crops: not for --mode=predict; it is for eval",
    "eval --weights=w": "--mode=eval needs images: name the folder",
    "eval --weights=w --workdir=RUN photos": "holds a run, but the weights are those of a file",
    "eval --weights=w --checkpoint=last photos": "--checkpoint: a file has one set of weights",
    "eval --weights=w --split=val photos": "--split: a folder of images is measured whole",
    "eval --weights=w --corruptions=extra photos": "--corruptions: is for the images of a data set",
    "eval --weights=w photos more": "found 2 folders of images; expected one",
    "eval --workdir=RUN --crops=10": "--crops: is for --mode=eval on a folder of images",
    "eval --weights=w --crops=5 photos": "--crops",
    f"eval {WITH_CONFIG} --weights=w photos": "--weights and --config: expected one",
    f"eval {WITH_CONFIG} photos": "or name a file of weights by --config.init_from",
    f"eval {WITH_CONFIG} --config.init_from=w": "--mode=eval needs images: name the folder",
    f"eval {WITH_CONFIG} --config.init_from=FILE --config.data.image_size=8 photos": "at least 32 pixels",
    f"eval {WITH_CONFIG} --config.init_from=w --config.data.mean=1,1,1 photos": "--config.data.mean:"
    " --mode=eval takes compute_dtype, ",
    "predict --workdir= a.jpg": "--workdir='': is an empty path",
    "predict --weights= a.jpg": "--weights='': is an empty path",
    "export --weights= --workdir=RUN": "--weights='': is an empty path",
    "train --weights=w": "--weights: not for --mode=train; it is for eval, predict, features, export, web; a"
    " config takes them by --config.init_from",
    "export --weights=w": "--workdir is missing: name the folder that --mode=export writes to",
    "report --weights=w": "--weights: not for --mode=report",
    "report --workdir=RUN --corruptions=extra": "--corruptions: not for --mode=report; it is for eval",
    "predict --workdir=RUN --split=val a.jpg": "--split: not for --mode=predict; it is for eval, report",
    f"eval {WITH_CONFIG} --workdir=RUN --config.temperature=1": "--config.temperature: --mode=eval takes the",
    "predict --weights=w a.jpg": "w: no such file; check the path",
    "eval --weights=FILE photos": "photos: cannot be listed (No such file or directory)",
}


@pytest.mark.parametrize("flags", COMBINATIONS)
def test_combinations_of_flags_that_make_no_sense(
    run: Run,
    flags: str,
    untrained_run: Path,
    weights_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    words = flags.replace("RUN", str(untrained_run)).replace("FILE", str(weights_file)).split()
    assert_refused(run(f"--mode={words[0]}", *words[1:]), COMBINATIONS[flags])
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_of_one_network_asks_for_one_seed(run: Run, seeds_workdir: Path, pictures: Path) -> None:
    for flags, parts in (
        (["--mode=export"], ("holds 2 seeds", str(seeds_workdir / "seed_7"))),
        (["--mode=features", pictures / "03.png"], ("has 2 seeds", "seed_0")),
        ([DEFAULT_CONFIG, f"--config.init_from={seeds_workdir}"], ("neither a run nor", "seed_0")),
    ):
        folder = f"{seeds_workdir}_2" if DEFAULT_CONFIG in flags else seeds_workdir
        assert_refused(run(f"--workdir={folder}", *flags), *parts)
    assert not (seeds_workdir / "export").exists()


# What modes declare


def test_choices_of_flags_are_what_the_rooms_below_offer() -> None:
    assert CHECKPOINT.choices == get_args(Which)
    assert features.POOL.choices == get_args(Pool)
    assert set(eval.CORRUPTIONS.choices) == corruptions.GROUPS.keys()
    assert export.FORMAT.choices == (*EXPORT_FORMATS, "web")
    assert export.PRECISION.choices == PRECISIONS


def test_a_flag_that_several_modes_have_is_the_same_in_all_of_them() -> None:
    declared = {flag for mode in load_modes().values() for flag in mode.flags}
    assert len({flag.name for flag in declared}) == len(declared)
    assert not {flag.name for flag in declared} & {"config", "workdir", "mode", "help", "version"}


def test_other_names_of_flags_lead_to_flags_that_there_are() -> None:
    values = define_flags(["main.py"], load_modes())
    assert set(ALIASES.values()) <= set(values)
    assert not ALIASES.keys() & set(values)


def test_every_mode_has_help_and_examples_of_its_own() -> None:
    for name, mode in load_modes().items():
        assert mode.help.endswith(".")
        assert mode.usage
        for example in mode.usage:
            assert name == "train" or f"--mode={name} " in f"{example} "
