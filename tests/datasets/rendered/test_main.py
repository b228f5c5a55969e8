"""`python -m datasets.rendered`: a sheet, one hand, and the messages for what is wrong."""

import subprocess
import sys

import numpy as np
from PIL import Image

from datasets.rendered.render import TEST, render


def test_the_module_writes_a_sheet(tmp_path):
    out = tmp_path / "sheet.png"
    subprocess.run([sys.executable, "-m", "datasets.rendered", str(out)], check=True)
    with Image.open(out) as sheet:
        assert sheet.width > sheet.height > 6 * 64


def test_the_module_takes_a_variety(tmp_path):
    command = [sys.executable, "-m", "datasets.rendered", "--label=3", "--variety=0.2"]
    subprocess.run([*command, str(tmp_path / "hand.png")], check=True)
    with Image.open(tmp_path / "hand.png") as image:
        expected = render(3, 0, seed=0, stream=TEST, variety=0.2)
        np.testing.assert_array_equal(np.asarray(image), expected)
    refused = subprocess.run(
        [sys.executable, "-m", "datasets.rendered", "--variety=2", "x.png"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2
    assert refused.stderr == "error: variety=2.0: expected a number from 0 to 1\n"


def test_the_module_writes_one_image(tmp_path):
    command = [sys.executable, "-m", "datasets.rendered", "--label=2", "--index=1"]
    subprocess.run([*command, str(tmp_path / "hand.png")], check=True)
    with Image.open(tmp_path / "hand.png") as image:
        expected = render(2, 1, seed=0, stream=TEST)
        np.testing.assert_array_equal(np.asarray(image), expected)
    (tmp_path / "file").touch()
    nowhere = tmp_path / "file" / "hand.png"
    refused = subprocess.run([*command, str(nowhere)], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"error: {nowhere}: cannot be written")
    refused = subprocess.run(
        [*command[:-2], "--label=9", "x.png"], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: label=9: expected a whole number from 0 to 5")
