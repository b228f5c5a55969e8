"""SIGNS: what is read from the files, the messages about bad files, and the download."""

import contextlib
import os
import subprocess
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h5py
import numpy as np
import pytest

from datasets import signs
from tests.datasets.errors import error_line

TRAIN, TEST = "train_signs.h5", "test_signs.h5"
# Absolute, and read before the tests clear the variable and change the folder.
REAL_DIR = os.environ.get("SIGNS_DIR") and str(Path(os.environ["SIGNS_DIR"]).resolve())


# Reading


@pytest.fixture(autouse=True)
def _no_signs_from_outside(monkeypatch, tmp_path):
    monkeypatch.delenv("SIGNS_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    # No test may reach the real mirrors.
    monkeypatch.setattr(signs, "URLS", {TRAIN: (), TEST: ()})


def test_reads_both_splits(signs_dir):
    data = signs.load(str(signs_dir))
    for name, split, size in (("train", data.train, 60), ("test", data.test, 12)):
        with h5py.File(signs_dir / f"{name}_signs.h5") as file:
            np.testing.assert_array_equal(split.images, file[f"{name}_set_x"][:])
            np.testing.assert_array_equal(split.labels, file[f"{name}_set_y"][:])
        assert split.images.shape == (size, 64, 64, 3)
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
    assert data.class_names == ("0", "1", "2", "3", "4", "5")


def test_config_dir_goes_before_environment_before_default(signs_dir, monkeypatch, tmp_path):
    default = tmp_path / "data" / "signs"
    default.parent.mkdir()
    signs_dir.rename(default)
    assert len(signs.load().train.labels) == 60

    monkeypatch.setenv("SIGNS_DIR", str(tmp_path / "from_environment"))
    error_line(lambda: signs.load(), "from_environment")
    error_line(lambda: signs.load(str(tmp_path / "from_config")), "from_config")
    assert len(signs.load(str(default)).train.labels) == 60

    monkeypatch.setenv("SIGNS_DIR", "")
    assert len(signs.load("").train.labels) == 60


def test_class_names_are_those_in_the_file(signs_dir):
    replace(signs_dir / TRAIN, "list_classes", np.array([3, 1]))
    assert signs.class_names(str(signs_dir)) == ("3", "1")


def test_without_files_class_names_are_those_of_the_original(tmp_path, monkeypatch):
    assert signs.class_names() == ("0", "1", "2", "3", "4", "5")
    assert signs.class_names(str(tmp_path / "nowhere")) == ("0", "1", "2", "3", "4", "5")
    monkeypatch.setenv("SIGNS_DIR", str(tmp_path / "nowhere"))
    assert signs.class_names("") == ("0", "1", "2", "3", "4", "5")
    assert list(tmp_path.iterdir()) == []


def test_class_names_in_a_damaged_file(signs_dir, monkeypatch):
    monkeypatch.setenv("SIGNS_DIR", str(signs_dir))
    replace(signs_dir / TRAIN, "list_classes", np.zeros((2, 3), int))
    error_line(lambda: signs.class_names(), f"{signs_dir / TRAIN}: list_classes", "[C]")
    (signs_dir / TRAIN).write_bytes(b"not a file of arrays")
    error_line(lambda: signs.class_names(), str(signs_dir / TRAIN), "not an HDF5 file")


@pytest.mark.skipif(not REAL_DIR, reason="SIGNS_DIR is not set")
def test_real_signs():
    data = signs.load(REAL_DIR)
    assert data.train.images.shape == (1080, 64, 64, 3)
    assert data.test.images.shape == (120, 64, 64, 3)
    assert Counter(data.train.labels.tolist()) == dict.fromkeys(range(6), 180)
    assert Counter(data.test.labels.tolist()) == dict.fromkeys(range(6), 20)


# Bad files


def replace(path: Path, key: str, value: object) -> None:
    with h5py.File(path, "r+") as file:
        del file[key]
        if value is not None:
            file[key] = value


@pytest.mark.parametrize("name", [TRAIN, TEST])
def test_missing_file(signs_dir, name):
    (signs_dir / name).unlink()
    error_line(lambda: signs.load(str(signs_dir)), str(signs_dir / name), "not found", "SIGNS_DIR")


def test_missing_folder(tmp_path):
    error_line(lambda: signs.load(str(tmp_path / "nowhere")), "nowhere", TRAIN, "not found")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("kept", [0.05, 0.5, 0.99])
def test_truncated_file(signs_dir, kept):
    path = signs_dir / TRAIN
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    error_line(lambda: signs.load(str(signs_dir)), str(path), "truncated")


@pytest.mark.parametrize("content", [b"", b"<html>404: Not Found</html>\n" * 100])
def test_not_hdf5(signs_dir, content):
    (signs_dir / TEST).write_bytes(content)
    error_line(lambda: signs.load(str(signs_dir)), str(signs_dir / TEST), "not an HDF5 file")


def test_folder_in_place_of_a_file(signs_dir):
    (signs_dir / TRAIN).unlink()
    (signs_dir / TRAIN).mkdir()
    error_line(lambda: signs.load(str(signs_dir)), str(signs_dir / TRAIN), "is a folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(signs_dir):
    (signs_dir / TRAIN).chmod(0)
    error_line(lambda: signs.load(str(signs_dir)), str(signs_dir / TRAIN), "ermission denied")


def test_unreadable_for_another_reason(signs_dir):
    (signs_dir / TRAIN).unlink()
    (signs_dir / TRAIN).symlink_to(signs_dir / TRAIN)
    error_line(lambda: signs.load(str(signs_dir)), str(signs_dir / TRAIN), "cannot be read")


SMALL = np.zeros((60, 64, 64, 3), np.uint8)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("train_set_x", None, ["no such key", "list_classes, train_set_y"]),
        ("train_set_y", None, ["no such key"]),
        ("list_classes", None, ["no such key"]),
        ("train_set_x", h5py.Empty("u1"), ["without data"]),
        ("train_set_x", SMALL[..., :1], ["shape (60, 64, 64, 1)", "[N, H, W, 3]"]),
        ("train_set_x", SMALL[..., 0], ["shape (60, 64, 64)", "[N, H, W, 3]"]),
        ("train_set_x", SMALL[:, :0], ["shape (60, 0, 64, 3)", "[N, H, W, 3]"]),
        ("train_set_x", SMALL.astype(np.float32), ["float32", "uint8"]),
        ("train_set_x", SMALL.astype(np.int64), ["int64", "uint8"]),
        ("train_set_x", SMALL[:0], ["no images"]),
        ("train_set_y", np.zeros((60, 1), np.int64), ["shape (60, 1)", "[N]"]),
        ("train_set_y", np.zeros(60, np.float64), ["float64", "integer"]),
        ("train_set_y", ["five"] * 60, ["text", "numbers"]),
        ("train_set_y", np.zeros(60, "S5"), ["text", "numbers"]),
        ("train_set_y", np.zeros(60, [("a", "i4"), ("b", "f4")]), ["a compound type of a, b", "numbers"]),
        (
            "train_set_y",
            np.array([h5py.Reference()] * 60, h5py.ref_dtype),
            ["references to other objects", "numbers"],
        ),
        ("train_set_y", np.zeros(59, np.int64), ["59 labels", "60", "train_set_x"]),
        ("train_set_y", np.r_[np.zeros(59, int), 6], ["label 6 at index 59", "0 to 5"]),
        ("train_set_y", np.r_[0, -1, np.zeros(58, int)], ["label -1 at index 1", "0 to 5"]),
        ("train_set_y", np.full(60, 2**32, np.uint64), ["label 4294967296", "0 to 5"]),
        ("list_classes", np.zeros((2, 3), int), ["shape (2, 3)", "[C]"]),
        ("list_classes", np.zeros(0, int), ["shape (0,)", "[C]"]),
        ("list_classes", np.zeros(6), ["float64", "integer"]),
        ("list_classes", np.array([0, 1, 1]), ["same class twice"]),
        ("list_classes", np.arange(20_000), ["20,000 classes", "at most 10,000"]),
    ],
)
def test_array_that_breaks_the_schema(signs_dir, key, value, words):
    replace(signs_dir / TRAIN, key, value)
    error_line(lambda: signs.load(str(signs_dir)), f"{signs_dir / TRAIN}: {key}: found", *words)


@pytest.mark.parametrize(
    ("shape", "options", "words"),
    [
        (
            (4_000_000, 64, 64, 3),
            {"chunks": (1, 64, 64, 3)},
            ["49,152,000,000 bytes", "at most 1,073,741,824"],
        ),
        ((4_000_000_000, 64, 64, 3), {"chunks": (1, 64, 64, 3)}, ["49,152,000,000,000 bytes", "at most"]),
        ((2**40, 64, 64, 3), {"chunks": (1, 64, 64, 3), "compression": "gzip"}, ["at most 1,073,741,824"]),
        ((80_000, 64, 64, 3), {"chunks": (1, 64, 64, 3)}, ["983,040,000 bytes", "the file holds 0"]),
    ],
)
def test_images_that_the_file_does_not_hold(signs_dir, shape, options, words):
    replace(signs_dir / TRAIN, "train_set_x", None)
    with h5py.File(signs_dir / TRAIN, "r+") as file:
        file.create_dataset("train_set_x", shape, np.uint8, **options)
    error_line(lambda: signs.load(str(signs_dir)), f"{signs_dir / TRAIN}: train_set_x: found", *words)


def _link_in_a_circle(file: h5py.File) -> None:
    file["train_set_x"] = h5py.SoftLink("/other")
    file["other"] = h5py.SoftLink("/train_set_x")


def _external_content(file: h5py.File) -> None:
    file.create_dataset(
        "train_set_x", (60, 64, 64, 3), np.uint8, external=[("/dev/zero", 0, 60 * 64 * 64 * 3)]
    )


def _virtual_data_set(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((60, 64, 64, 3), np.uint8)
    layout[:] = h5py.VirtualSource("elsewhere.h5", "x", (60, 64, 64, 3))
    file.create_virtual_dataset("train_set_x", layout)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (_link_in_a_circle, ["a link to /other"]),
        (_external_content, ["content in the file /dev/zero"]),
        (_virtual_data_set, ["virtual data set"]),
        (
            lambda file: file.__setitem__("train_set_x", h5py.ExternalLink("elsewhere.h5", "/x")),
            ["a link to /x in the file elsewhere.h5"],
        ),
    ],
    ids=["soft_link", "external_content", "virtual_data_set", "external_link"],
)
def test_content_of_other_places_is_not_followed(signs_dir, write, words):
    replace(signs_dir / TRAIN, "train_set_x", None)
    with h5py.File(signs_dir / TRAIN, "r+") as file:
        write(file)
    error_line(lambda: signs.load(str(signs_dir)), f"{signs_dir / TRAIN}: train_set_x: found", *words)


def test_file_that_another_program_has_open(signs_dir):
    program = "import h5py, sys, time; file = h5py.File(sys.argv[1], 'r+'); print(flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(signs_dir / TRAIN)], stdout=subprocess.PIPE
    ) as process:
        try:
            process.stdout.readline()
            message = error_line(lambda: signs.load(str(signs_dir)), str(signs_dir / TRAIN), "is locked")
        finally:
            process.kill()
    assert "delete" not in message
    assert "damaged" not in message


def test_pipe_in_place_of_a_file(signs_dir):
    (signs_dir / TRAIN).unlink()
    os.mkfifo(signs_dir / TRAIN)
    error_line(lambda: signs.load(str(signs_dir)), str(signs_dir / TRAIN), "is a pipe")


def test_group_in_place_of_an_array(signs_dir):
    replace(signs_dir / TEST, "test_set_x", None)
    with h5py.File(signs_dir / TEST, "r+") as file:
        file.create_group("test_set_x")
    error_line(lambda: signs.load(str(signs_dir)), TEST, "test_set_x", "group")


def test_splits_of_different_image_size(signs_dir):
    replace(signs_dir / TEST, "test_set_x", np.zeros((12, 32, 32, 3), np.uint8))
    error_line(
        lambda: signs.load(str(signs_dir)),
        f"{signs_dir / TEST}: test_set_x",
        "(32, 32, 3)",
        "(64, 64, 3)",
        TRAIN,
    )


def test_splits_of_different_classes(signs_dir):
    replace(signs_dir / TEST, "list_classes", np.arange(7))
    error_line(lambda: signs.load(str(signs_dir)), f"{signs_dir / TEST}: list_classes", TRAIN)


# Download


class Server(ThreadingHTTPServer):
    """Serves `answers[path]`: (status, bytes sent, Content-Length); counts the requests."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, bytes, int]] = {}
        self.stalled_paths: set[str] = set()
        self.stall_after_sending = False
        self.requests: Counter[str] = Counter()
        self.sent = threading.Event()
        self.closing = threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)

    def serve(self, path: str, content: bytes, *, status: int = 200, length: int | None = None):
        self.answers[path] = (status, content, len(content) if length is None else length)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests[self.path] += 1
        status, content, length = self.server.answers.get(self.path, (404, b"", 0))
        if self.path in self.server.stalled_paths:
            # So long that only a client without a time-out would wait.
            self.server.closing.wait(5)
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()
        self.server.sent.set()
        if self.server.stall_after_sending:
            self.server.closing.wait()

    def handle(self) -> None:
        # Some tests make the client hang up.
        with contextlib.suppress(ConnectionError):
            super().handle()

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def server(monkeypatch, signs_dir):
    """Two mirrors, /a/ and /b/, that are expected to serve the files of `signs_dir`."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    urls = {name: (server.url(f"/a/{name}"), server.url(f"/b/{name}")) for name in (TRAIN, TEST)}
    blobs = {name: signs.git_blob_id((signs_dir / name).read_bytes()) for name in (TRAIN, TEST)}
    monkeypatch.setattr(signs, "URLS", urls)
    monkeypatch.setattr(signs, "GIT_BLOBS", blobs)
    yield server
    server.closing.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def content(signs_dir) -> bytes:
    return (signs_dir / TRAIN).read_bytes()


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "data" / "signs"


def on_disk(folder: Path) -> dict[str, bytes]:
    """Returns the contents of all files under `folder`, hidden ones too."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


def test_git_blob_id_is_what_git_gives():
    # `git hash-object` of an empty file, and the example of the Pro Git book, chapter 10.2.
    assert signs.git_blob_id(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert signs.git_blob_id(b"test content\n") == "d670460b4b4aece5915caf5c68d12f560a9fe3e4"


def test_absent_pair_is_downloaded_and_read_then_kept(server, signs_dir, cache, capfd):
    for name in (TRAIN, TEST):
        server.serve(f"/a/{name}", (signs_dir / name).read_bytes())

    data = signs.load()

    np.testing.assert_array_equal(data.train.images, signs.load(str(signs_dir)).train.images)
    assert on_disk(cache) == on_disk(signs_dir)
    assert capfd.readouterr() == ("", "")

    signs.load()
    assert server.requests == {f"/a/{TRAIN}": 1, f"/a/{TEST}": 1}


def test_terminal_sees_a_progress_bar_and_nothing_else(server, content, cache, capsys, monkeypatch):
    server.serve(f"/a/{TRAIN}", content)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    signs.download(TRAIN, cache)
    out, err = capsys.readouterr()
    assert out == ""
    assert "100%" in err
    assert not [line for line in err.replace("\r", "\n").splitlines() if line and "%|" not in line]


def test_file_already_there_is_not_downloaded(server, signs_dir, cache):
    cache.mkdir(parents=True)
    (signs_dir / TRAIN).rename(cache / TRAIN)
    server.serve(f"/a/{TEST}", (signs_dir / TEST).read_bytes())

    signs.load()

    assert server.requests == {f"/a/{TEST}": 1}
    assert sorted(on_disk(cache)) == [TEST, TRAIN]


def test_named_folder_is_never_filled(server, signs_dir, content):
    server.serve(f"/a/{TRAIN}", content)
    (signs_dir / TRAIN).unlink()
    error_line(lambda: signs.load(str(signs_dir)), TRAIN, "not found")
    assert not server.requests
    assert list(on_disk(signs_dir)) == [TEST]


def test_second_mirror_when_first_has_no_file(server, content, cache):
    server.serve(f"/b/{TRAIN}", content)
    signs.download(TRAIN, cache)
    assert server.requests == {f"/a/{TRAIN}": 1, f"/b/{TRAIN}": 1}
    assert on_disk(cache) == {TRAIN: content}


def test_second_mirror_when_first_is_down(server, content, cache, monkeypatch):
    # A port that was free a moment ago: nobody listens there.
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as closed:
        dead = f"http://127.0.0.1:{closed.server_port}/{TRAIN}"
    server.serve(f"/b/{TRAIN}", content)
    monkeypatch.setitem(signs.URLS, TRAIN, (dead, server.url(f"/b/{TRAIN}")))
    signs.download(TRAIN, cache)
    assert on_disk(cache) == {TRAIN: content}


def test_second_mirror_when_first_has_wrong_bytes(server, content, cache):
    server.serve(f"/a/{TRAIN}", content[:-1] + b"?")
    server.serve(f"/b/{TRAIN}", content)
    signs.download(TRAIN, cache)
    assert server.requests == {f"/a/{TRAIN}": 1, f"/b/{TRAIN}": 1}
    assert on_disk(cache) == {TRAIN: content}


def test_second_mirror_when_first_cuts_the_connection(server, content, cache):
    server.serve(f"/a/{TRAIN}", content[: len(content) // 2], length=len(content))
    server.serve(f"/b/{TRAIN}", content)
    signs.download(TRAIN, cache)
    assert on_disk(cache) == {TRAIN: content}


def test_second_mirror_when_first_does_not_answer(server, content, cache, monkeypatch):
    monkeypatch.setattr(signs, "READ_TIMEOUT", 0.2)
    server.serve(f"/a/{TRAIN}", content)
    server.stalled_paths.add(f"/a/{TRAIN}")
    server.serve(f"/b/{TRAIN}", content)
    signs.download(TRAIN, cache)
    assert server.requests == {f"/a/{TRAIN}": 1, f"/b/{TRAIN}": 1}
    assert on_disk(cache) == {TRAIN: content}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda content: {"content": b"", "status": 503}, "HTTP 503; HTTP 503"),
        (lambda content: {"content": content[:-1]}, "wrong content"),
        (lambda content: {"content": content[:999], "length": len(content)}, "connection cut"),
        (lambda content: {"content": b"", "length": len(content)}, "connection cut"),
    ],
    ids=["down", "wrong_bytes", "cut_half_way", "cut_at_once"],
)
def test_no_mirror_delivers(server, content, cache, answer, reason):
    for mirror in "ab":
        server.serve(f"/{mirror}/{TRAIN}", **answer(content))
    error_line(
        lambda: signs.load(),
        "SIGNS could not be downloaded",
        TRAIN,
        reason,
        "SIGNS_DIR",
        "`make demo`",
    )
    assert server.requests == {f"/a/{TRAIN}": 1, f"/b/{TRAIN}": 1}
    assert not cache.exists()


def test_folder_that_cannot_be_made(server, content, tmp_path):
    server.serve(f"/a/{TRAIN}", content)
    (tmp_path / "data").write_text("in the way")
    error_line(lambda: signs.load(), "SIGNS could not be downloaded", "data/signs", "SIGNS_DIR")
    assert (tmp_path / "data").read_text() == "in the way"


def test_process_killed_half_way_leaves_no_file_and_the_next_succeeds(server, content, cache):
    server.serve(f"/a/{TRAIN}", content[: len(content) // 2], length=len(content))
    server.stall_after_sending = True
    program = (
        "import sys; from pathlib import Path; from datasets import signs;"
        "signs.URLS = {sys.argv[1]: (sys.argv[2],)};"
        "signs.download(sys.argv[1], Path(sys.argv[3]))"
    )
    url = server.url(f"/a/{TRAIN}")
    process = subprocess.Popen(
        [sys.executable, "-c", program, TRAIN, url, str(cache)],
        env=os.environ | {"PYTHONPATH": str(Path(signs.__file__).parents[1])},
    )
    try:
        assert server.sent.wait(60)
    finally:
        process.kill()
        process.wait()
    assert not (cache / TRAIN).exists()

    server.stall_after_sending = False
    server.serve(f"/a/{TRAIN}", content)
    signs.download(TRAIN, cache)
    assert (cache / TRAIN).read_bytes() == content
