"""`--mode=show_batch`: a picture of training images, in the workdir alone."""

from pathlib import Path

from PIL import Image

from tests.command_line import SHORT_TRAINING, Run, assert_succeeded


def test_show_batch_writes_a_picture_into_the_workdir_alone(
    run: Run, shared_signs_dir: Path, tmp_path: Path
) -> None:
    flags = ["--mode=show_batch", *SHORT_TRAINING, f"--config.data.dir={shared_signs_dir}"]
    folder = tmp_path / "run"
    result = run(*flags, f"--workdir={folder}")
    assert_succeeded(result)
    assert result.out == f"written: {folder / 'show_batch.png'}\n"
    assert Image.open(folder / "show_batch.png").width > 8 * 64
    assert [path.name for path in folder.iterdir()] == ["show_batch.png"]
    # Pictures of photographs must not land in the project's own folder by default.
    assert run(*flags).code == 2
