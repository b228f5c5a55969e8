"""The Hugging Face Hub: weights are fetched from `hf://owner/name`, and exports are pushed in one commit.

Downloads, their cache and the token of the user are those of the package huggingface_hub, which other
programs share. It is imported when it is needed, as most commands never ask the Hub for anything.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeGuard

import resnet
from resnet.errors import UserError
from resnet.files import cannot_write, open_file, printable

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PREFIX = "hf://"
DESCRIPTIONS = ("config.json", "preprocessor_config.json")
# What a push writes for some networks only. One that an earlier push left would be of other weights.
OPTIONAL = ("preprocessor_config.json", "model.onnx")
LOG_IN = "log in by `hf auth login`, or set HF_TOKEN"
MAX_REASON = 160  # characters of what the library says
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_REPOSITORY = re.compile(f"{_PART}/{_PART}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]*")  # a branch, a tag, a commit, or refs/pr/1
MAX_NAME = 96  # characters of owner/name
_BLOCK = 2**20  # bytes


class Address(NamedTuple):
    """A repository of the Hub and its branch, tag or commit."""

    repository: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"{PREFIX}{self.repository}@{self.revision}"


class Snapshot(NamedTuple):
    """The folder of the cache with the weights of a repository, and the address with their commit."""

    folder: Path
    address: Address


def is_address(text: object) -> TypeGuard[str]:
    """Returns whether `text` names a repository of the Hub rather than a local path."""
    return isinstance(text, str) and text.startswith(PREFIX)


def parse_address(text: str) -> Address:
    """Returns the address in `hf://owner/name` or `hf://owner/name@revision`.

    Raises:
        UserError: it is written otherwise.
    """
    repository, at, revision = text.removeprefix(PREFIX).partition("@")
    if not _is_repository(repository):
        raise UserError(
            f"{printable(text)}: names no repository of the Hub; expected {PREFIX}owner/name, such as"
            f" {PREFIX}microsoft/resnet-50, or {PREFIX}owner/name@revision"
        )
    if not at:
        return Address(repository)
    if not _REVISION.fullmatch(revision) or ".." in revision or "//" in revision:
        raise UserError(
            f"{printable(text)}: has {printable(revision)!r} for a revision; expected a branch, a tag or a"
            " commit behind the @, or no @ for the branch main"
        )
    return Address(repository, revision)


def _is_repository(text: str) -> bool:
    forbidden = "--" in text or ".." in text or text.endswith(".git")
    return bool(_REPOSITORY.fullmatch(text)) and len(text) <= MAX_NAME and not forbidden


# Fetching


def fetch(text: str) -> Snapshot:
    """Fetches the weights at the address `text`, and what describes them, unless they are in the cache.

    The revision is resolved to a commit first, and all files are of that commit. Without a network the cache
    says what the revision was when it was last asked for.

    Raises:
        UserError: the address is wrong, there are no weights, or they cannot be fetched or are damaged.
    """
    # They bring NumPy and h5py, which a command that parses an address alone does not need.
    from resnet.formats.weights_file import INDEX_SUFFIX, WEIGHTS_FILES, shards_of

    address = parse_address(text)
    api = _api(text)
    with _explained(text):
        commit = api.resolve_revision(address.repository, revision=address.revision).resolved
    pinned = address._replace(revision=commit)
    for name in DESCRIPTIONS:
        _fetch_file(api, pinned, name)
    for name in WEIGHTS_FILES:
        file = _fetch_file(api, pinned, name)
        if file is not None:
            break
    else:
        raise UserError(
            f"{text}: holds no weights that can be read, at commit {commit[:7]}; expected one of"
            f" {', '.join(WEIGHTS_FILES)}"
        )
    if name.endswith(INDEX_SUFFIX):
        for shard in shards_of(file):
            if _fetch_file(api, pinned, shard) is None:
                raise UserError(f"{pinned}: {name} names {shard}, which is missing; take another revision")
    return Snapshot(file.parent, pinned)


def _fetch_file(api: "HfApi", address: Address, name: str) -> Path | None:
    """Returns the path of a file in the cache, downloaded if need be; None if the commit has no such file.

    The cache remembers missing files too. So one that was merely never asked for is not taken for missing.
    """
    from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache
    from huggingface_hub.errors import RemoteEntryNotFoundError

    cached = try_to_load_from_cache(address.repository, name, revision=address.revision)
    if cached is _CACHED_NO_EXIST:
        return None
    if isinstance(cached, str):
        file = Path(cached)
    else:
        with _explained(f"{address}: {name}"):
            try:
                file = Path(api.hf_hub_download(address.repository, name, revision=address.revision))
            except RemoteEntryNotFoundError:
                return None
    _check_content(file, address)
    return file


def _check_content(file: Path, address: Address) -> None:
    """Checks that a file of the cache has the digest by which the Hub knows it.

    The library itself checks the size alone. It links the file to one whose name is the digest: the SHA-256
    of a large file, Git's SHA-1 of another.

    Raises:
        UserError: the file has another digest, so that it is damaged.
    """
    if not file.is_symlink():
        return  # Some file systems have no links, and then nothing tells the digest.
    expected = Path(os.readlink(file)).name
    if len(expected) not in (40, 64):
        return  # A mirror of the Hub may have identifiers of its own.
    with open_file(file) as stream:
        if len(expected) == 64:
            digest = hashlib.sha256()
        else:
            digest = hashlib.sha1(f"blob {os.fstat(stream.fileno()).st_size}\0".encode())
        while block := stream.read(_BLOCK):
            digest.update(block)
    if digest.hexdigest() != expected:
        raise UserError(
            f"{address}: {file.name} is damaged: its digest is {digest.hexdigest()[:12]}..., expected"
            f" {expected[:12]}...; remove {file.resolve()} and run the same command again"
        )


# Pushing


class Push(NamedTuple):
    """The address of the commit that a push made, and whether it made the repository too."""

    url: str
    is_new_repository: bool


def check_can_push(repository: str) -> None:
    """Checks what can be known of a push before it: the name, the package and a token.

    Raises:
        UserError: one of them is missing.
    """
    if not _is_repository(repository):
        raise UserError(
            f"--push={printable(repository)}: is no name of a repository; expected owner/name of letters,"
            f" digits, -, _ and ., at most {MAX_NAME} characters"
        )
    _api(f"--push={repository}")
    from huggingface_hub import get_token

    if get_token() is None:
        raise UserError(f"--push={repository}: there is no token; {LOG_IN}, to one that may write")


def push(files: Mapping[str, Path], repository: str, message: str) -> Push:
    """Writes `files`, by their names there, to the main branch of `repository` in one commit.

    A repository that does not exist yet is made, and is private. Files that another push may have written,
    and that are not among `files`, are deleted in the same commit; all others stay.

    Raises:
        UserError: there is no right to write, or the Hub cannot be reached. Nothing has been committed then.
    """
    subject = f"--push={repository}"
    api = _api(subject)
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    with _explained(subject):
        is_new = not api.repo_exists(repository)
        if is_new:
            api.create_repo(repository, private=True, exist_ok=True)
        stale = [n for n in OPTIONAL if n not in files and not is_new and api.file_exists(repository, n)]
        added = [CommitOperationAdd(name, file) for name, file in files.items()]
        deleted = [CommitOperationDelete(name) for name in stale]
        commit = api.create_commit(repository, [*added, *deleted], commit_message=message)
    return Push(commit.commit_url, is_new)


# The package


def _api(subject: str) -> "HfApi":
    """Returns the library's interface to the Hub, which HF_ENDPOINT may place elsewhere.

    Raises:
        UserError: the package is not installed; the message begins with `subject`.
    """
    if find_spec("huggingface_hub") is None:
        raise UserError(
            f"{subject}: needs the package huggingface_hub; install it: pip install huggingface_hub"
        )
    from huggingface_hub import HfApi

    return HfApi(library_name="resnet-signs", library_version=resnet.__version__)


@contextmanager
def _explained(subject: str) -> Iterator[None]:
    """Turns what huggingface_hub raises into an error of one line that begins with `subject`.

    Its warnings are held back meanwhile: that it tries again, or that nobody is logged in. So are its
    progress bars, unless there is a terminal to draw them on.

    Raises:
        UserError: the Hub has refused, cannot be reached, or the disk is full.
    """
    from huggingface_hub import errors, logging, utils

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    hides_bars = not sys.stderr.isatty() and not utils.are_progress_bars_disabled()
    if hides_bars:
        utils.disable_progress_bars()
    try:
        yield
    except (
        errors.RevisionResolutionError,
        errors.HTTPError,
        OSError,
        RuntimeError,
        ValueError,
    ) as error:
        # Uploads of large files and hf_xet wrap their errors.
        cause = error.__cause__ if type(error) is RuntimeError and error.__cause__ else error
        raise _explain(cause, subject) from None
    finally:
        logging.set_verbosity(verbosity)
        if hides_bars:
            utils.enable_progress_bars()


def _explain(error: BaseException, subject: str) -> UserError:
    """Returns the error of a user for `error`, which huggingface_hub has raised."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        return UserError(f"{subject}: is gated; ask for access on its page, and {LOG_IN}")
    if isinstance(error, errors.RepositoryNotFoundError):
        return UserError(f"{subject}: no such repository, or a private one; check the name, or {LOG_IN}")
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(f"{subject}: has no such revision; expected a branch, a tag or a commit of it")
    if isinstance(error, errors.HfHubHTTPError):
        return _refused(error.response.status_code, error.server_message, subject)
    reason = _reason(error.__cause__ or error)
    if isinstance(
        error, (errors.RevisionResolutionError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)
    ):
        advice = "unset HF_HUB_OFFLINE" if constants.is_offline_mode() else "check the network"
        return UserError(
            f"{subject}: is not in the cache {constants.HF_HUB_CACHE}, and the Hub cannot be reached"
            f" ({reason}); {advice}, and run the same command again"
        )
    if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError):
        cache = f"{subject}: the cache {constants.HF_HUB_CACHE}"
        return UserError(f"{cannot_write(cache, error)} by HF_HOME")
    if isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError):
        return UserError(f"{subject}: the Hub does not take this ({reason}); correct it")
    # An answer that is no JSON may be the page of a hotel.
    return UserError(
        f"{subject}: the connection to the Hub failed ({reason}); check the network, and run the same command"
        " again"
    )


def _refused(status: int, message: str | None, subject: str) -> UserError:
    """Returns the error for an answer of the Hub with this HTTP status and, perhaps, its reason."""
    reason = f"HTTP {status}{f': {message}' if message else ''}"[:MAX_REASON]
    if status == 401:
        return UserError(f"{subject}: the Hub does not know this token ({reason}); {LOG_IN}, to a valid one")
    if status == 403:
        return UserError(f"{subject}: this token has no right to it ({reason}); {LOG_IN}, to one that has")
    if status >= 500 or status == 429:
        return UserError(f"{subject}: the Hub is busy or down ({reason}); try again later")
    return UserError(f"{subject}: the Hub refuses this ({reason}); check the name")


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:MAX_REASON]
