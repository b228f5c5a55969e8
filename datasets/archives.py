"""Where files lie: a folder, a zip archive or a tar archive, which is read without unpacking.

Each of the three lists its files, and is a `datasets.listing.Source` of their contents. Names are relative to
the folder or archive, with `/` between their parts. Those that are not UTF-8 hold surrogate escapes, as in
`os`, and `resnet.files.printable` shows them.
"""

import os
import posixpath
import re
import stat
import tarfile
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from resnet.errors import UserError
from resnet.files import open_file, printable
from resnet.images import MAX_FILE_SIZE, is_hidden

MAX_PARTS = 256  # of a name in an archive; folders on disk are hardly ever so deep
_OUTSIDE = re.compile(r"^/|^[A-Za-z]:/|(^|/)\.\.(/|$)")
_EMPTY_PART = re.compile(r"(?:(?<=/)|^)\.?(?:/|$)")
_MAX_TAR_HEADER = 2**14  # bytes; long names and extended attributes are a tenth of it
_ZIP_NAME_IS_UTF8 = 0x800
_ZIP_IS_ENCRYPTED = 0x1


class Entries(NamedTuple):
    """What a folder or an archive holds: files such as `cat/1.png`, and folders such as `cat/`.

    `passed_over` counts entries by why they were left out: those that are hidden, links that lead nowhere and
    the like. A hidden folder counts once.
    """

    names: list[str]
    passed_over: Counter[str]


class Folder:
    """A folder on disk."""

    square_size = 0

    def __init__(self, path: str) -> None:
        self.path = path
        self._located: dict[tuple[int, int], str] = {}  # by device and inode

    def entries(self) -> Entries:
        """Lists all that lies below the folder. Links are followed.

        Raises:
          UserError: a folder cannot be listed.
        """
        names: list[str] = []
        passed_over: Counter[str] = Counter()
        # Folders that are yet to be listed, each with the identities of the folders above it. Recursion would
        # end at a thousand levels.
        waiting: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", ())]
        while waiting:
            folder, above = waiting.pop()
            identity, content = self._listed(folder)
            if identity in above:
                passed_over["links in a circle"] += 1
                continue
            if folder:
                names.append(folder)
            for entry in content:
                kind = "hidden" if is_hidden(entry.name) else _kind(entry)
                if kind == "file":
                    names.append(folder + entry.name)
                elif kind == "folder":
                    waiting.append((f"{folder}{entry.name}/", (*above, identity)))
                else:
                    passed_over[kind] += 1
        return Entries(names, passed_over)

    def locate(self, path: str, table: str) -> str | None:
        """Returns the name of the file that the table `table` calls `path`, or None if there is none.

        A file that is called by several paths has one name, or it could be in two splits at once.
        """
        for variant in _spellings(path):
            name = os.path.join(os.path.dirname(table), variant)
            with suppress(OSError, ValueError):
                status = os.stat(os.path.join(self.path, name))
                if stat.S_ISREG(status.st_mode):
                    # Behind a link, `..` is another folder than the text says.
                    name = name if ".." in name else os.path.normpath(name)
                    return self._located.setdefault((status.st_dev, status.st_ino), name)
        return None

    def stamps(self, names: Collection[str]) -> Mapping[str, str]:
        """Returns the size and the time of the last change of each file, or `missing`."""
        stamps = dict.fromkeys(names, "missing")
        for name in stamps:
            with suppress(OSError):
                status = os.stat(os.path.join(self.path, name))
                stamps[name] = f"{status.st_size} {status.st_mtime_ns}"
        return stamps

    def contents(self, names: Collection[str]) -> Iterator[tuple[str, bytes | UserError]]:
        """Yields names and contents, or what is wrong, in the given order."""
        for name in dict.fromkeys(names):
            yield name, _file_content(os.path.join(self.path, name))

    def content(self, name: str) -> bytes | UserError:
        """Returns the content of a file, or what is wrong with it."""
        return _file_content(os.path.join(self.path, name))

    def _listed(self, folder: str) -> tuple[tuple[int, int], list[os.DirEntry[str]]]:
        """Returns the device and the inode of a folder, and what lies directly in it."""
        path = os.path.join(self.path, folder)
        try:
            status = os.stat(path)
            with os.scandir(path) as content:
                return (status.st_dev, status.st_ino), list(content)
        except OSError as error:
            raise UserError(
                f"{printable(path)}: the folder cannot be listed ({error.strerror}); check its permissions"
            ) from None


class _Archive:
    """The files of an archive by name. A subclass adds them when it is made, and yields their contents."""

    square_size = 0
    _format = ""

    def __init__(self, path: str) -> None:
        self.path = path
        self._stamps: dict[str, str] = {}
        self._names: list[str] = []
        self._hidden: set[str] = set()
        self._passed_over: Counter[str] = Counter()

    def entries(self) -> Entries:
        """Lists all that the archive holds."""
        return Entries(list(self._names), Counter(hidden=len(self._hidden)) + self._passed_over)

    def locate(self, path: str, table: str) -> str | None:
        """Returns the name of the file that the table `table` calls `path`, or None if there is none."""
        for variant in _spellings(path):
            name = posixpath.normpath(posixpath.join(posixpath.dirname(table), variant))
            if name in self._stamps:
                return name
        return None

    def stamps(self, names: Collection[str]) -> Mapping[str, str]:
        """Returns what changes with the content of each file, as the archive had it when it was listed."""
        return {name: self._stamps[name] for name in names}

    def _add(self, name: str, kind: str, stamp: str) -> None:
        """Adds a file or a folder, or counts what is neither by its `kind`."""
        if kind not in ("file", "folder"):
            self._passed_over[kind] += 1
            return
        if kind == "file" and name in self._stamps:
            raise UserError(
                f"{printable(self.path)}: holds {name!r} twice, expected every file once;"
                " pack the archive again"
            )
        if kind == "file":
            self._stamps[name] = stamp
        parts = name.split("/")
        hidden = next((i for i, part in enumerate(parts, 1) if is_hidden(part)), 0)
        if hidden:
            self._hidden.add("/".join(parts[:hidden]))
        elif name:
            self._names.append(f"{name}/" if kind == "folder" else name)

    def _checked(self, name: str) -> str:
        """Returns the name of an entry without its empty parts.

        Raises:
          UserError: it lies outside of the archive, or in more than `MAX_PARTS` folders.
        """
        if _OUTSIDE.search(name):
            raise UserError(
                f"{printable(self.path)}: holds {name!r}, which lies outside of the archive;"
                " expected names such as train/cat/1.jpg; pack it again from inside its folder"
            )
        name = _EMPTY_PART.sub("", name).rstrip("/")
        # Listing takes time for each part of each name.
        if name.count("/") >= MAX_PARTS:
            raise UserError(
                f"{printable(self.path)}: holds {name[:40]!r}..., a name of {name.count('/') + 1:,} parts,"
                f" expected at most {MAX_PARTS}; pack it again with fewer folders inside of each other"
            )
        return name

    def _damaged(self, error: Exception) -> UserError:
        return UserError(
            f"{printable(self.path)}: is no {self._format} archive, or it is damaged or cut off"
            f" ({_reason(error)}); download or pack it again"
        )


class ZipArchive(_Archive):
    """A zip archive. Its directory is read at once, and each file when it is asked for.

    Raises:
      UserError: it cannot be read, is encrypted, holds a file twice or one that lies outside of it.
    """

    _format = "zip"

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._members: dict[str, zipfile.ZipInfo] = {}
        for member in self._directory():
            raw_name = _zip_name(member)
            name = self._checked(raw_name)
            kind = "folder" if raw_name.endswith("/") else _kind_of_mode(member.external_attr >> 16)
            if kind == "file" and member.flag_bits & _ZIP_IS_ENCRYPTED:
                raise UserError(
                    f"{printable(path)}: {name!r} is encrypted, expected plain files; pack the archive"
                    " again without a password"
                )
            self._add(name, kind, f"{member.file_size} {member.CRC:08x}")
            self._members[name] = member

    def contents(self, names: Collection[str]) -> Iterator[tuple[str, bytes | UserError]]:
        """Yields names and contents, or what is wrong, in the order in which they lie in the archive.

        Raises:
          UserError: the archive cannot be opened any more.
        """
        wanted = sorted(set(names), key=lambda name: self._members[name].header_offset)
        try:
            archive = zipfile.ZipFile(self.path)
        except Exception as error:
            raise self._damaged(error) from error
        with archive:
            for name in wanted:
                yield name, self._content(archive, name)

    def content(self, name: str) -> bytes | UserError:
        """Returns the content of a file, or what is wrong with it. The archive stays open."""
        try:
            return self._content(self._opened, name)
        except UserError as error:
            return error

    @cached_property
    def _opened(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except Exception as error:
            raise self._damaged(error) from error

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out the open archive, as another process opens its own."""
        return {name: value for name, value in self.__dict__.items() if name != "_opened"}

    def _directory(self) -> list[zipfile.ZipInfo]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                return archive.infolist()
        except Exception as error:  # Of damaged files `zipfile` raises nearly anything.
            raise self._damaged(error) from error

    def _content(self, archive: zipfile.ZipFile, name: str) -> bytes | UserError:
        member, path = self._members[name], os.path.join(self.path, name)
        if member.file_size > MAX_FILE_SIZE:
            return _too_large(path)
        try:
            with archive.open(member) as file:
                # A number bounds what is unpacked if the size in the directory is a lie.
                content = file.read(member.file_size)
        except Exception as error:  # Of damaged files `zipfile` raises nearly anything.
            return _damaged_member(path, error)
        if len(content) < member.file_size:
            return _damaged_member(path, EOFError("it is cut off"))
        return content


READ_AHEAD = 2**20  # bytes


class TarArchive(_Archive):
    """A tar archive, perhaps compressed with gzip, bzip2 or xz. It is only ever read from front to back.

    Raises:
      UserError: it cannot be read, holds a file twice or one that lies outside of it.
    """

    _format = "tar"

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._stamp = ""
        with suppress(OSError):
            status = os.stat(path)
            self._stamp = f"{status.st_size} {status.st_mtime_ns}"
        for member, _ in self._members():
            stamp = f"{member.size} {member.mtime} {member.offset} in {self._stamp}"
            self._add(self._checked(member.name), _kind_of_member(member), stamp)

    def contents(self, names: Collection[str]) -> Iterator[tuple[str, bytes | UserError]]:
        """Yields names and contents, or what is wrong, in one pass over the archive.

        Every call makes such a pass. So ask for all files at once.

        Raises:
          UserError: the archive cannot be read any more.
        """
        wanted = set(names)
        for member, archive in self._members() if wanted else ():
            name = self._checked(member.name)
            if name in wanted and _kind_of_member(member) == "file":
                wanted.remove(name)
                yield name, self._content(archive, member)
                if not wanted:
                    return
        for name in sorted(wanted):
            yield name, _vanished(os.path.join(self.path, name))

    def content(self, name: str) -> bytes | UserError:
        """Raises UserError, as finding one file means a pass over the archive."""
        raise UserError(
            f"{printable(self.path)}: a tar archive cannot be read in random order, and its decoded images"
            " are too large for memory and for the cache folder; pack it with: python -m datasets.records"
            f" {printable(self.path)} FOLDER"
        )

    def _members(self) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
        """Yields the headers of the archive one after another, each with the archive opened behind it."""
        try:
            with tarfile.open(self.path, "r:*", tarinfo=_TarHeader) as archive:
                offset = -1
                while (member := archive.next()) is not None:
                    if archive.offset <= offset:
                        raise tarfile.ReadError("a file of negative size")
                    offset = archive.offset
                    # Otherwise the headers of a million files fill the memory.
                    archive.members.clear()  # type: ignore[attr-defined]
                    yield member, archive
                # The checksum of a compressed archive stands at its end.
                while archive.fileobj.read(READ_AHEAD):  # type: ignore[union-attr]
                    pass
        except Exception as error:  # Of damaged files `tarfile` raises nearly anything.
            raise self._damaged(error) from error

    def _content(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | UserError:
        path = os.path.join(self.path, member.name)
        if member.size > MAX_FILE_SIZE:
            return _too_large(path)
        try:
            file = archive.extractfile(member)
            return file.read() if file else _vanished(path)
        except Exception as error:
            return _damaged_member(path, error)


class _TarHeader(tarfile.TarInfo):
    """A header whose damage is an error. `tarfile` takes most of it for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_TarHeader":
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # a block of zeros, the true end
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None
        is_extended_header = header.type in (b"L", b"K", b"x", b"g", b"X")
        if header.size < 0 or (is_extended_header and header.size > _MAX_TAR_HEADER):
            raise tarfile.ReadError(f"a header of {header.size} bytes")
        return header

    def _refuse_sparse(self, *_: object) -> NoReturn:
        """Refuses files with holes, whose maps of the holes have no bound. No picture has any."""
        raise tarfile.ReadError("a sparse file")

    _proc_sparse = _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse_sparse


def _spellings(path: str) -> Iterator[str]:
    """Yields ways to write the path of a table. Windows has backslashes, macOS two letters for é."""
    for slashed in dict.fromkeys((path, path.replace("\\", "/"))):
        yield from dict.fromkeys(
            (slashed, *(unicodedata.normalize(form, slashed) for form in ("NFC", "NFD")))
        )


def _kind(entry: os.DirEntry[str]) -> str:
    """Returns `file`, `folder` or what else it is, following links."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        return "broken links" if entry.is_symlink() else "pipes or devices"
    except OSError:  # such as a link to itself
        return "broken links"


def _kind_of_mode(mode: int) -> str:
    """Returns `file` or what else an entry of a zip archive is, by its Unix mode; 0 is unknown."""
    if stat.S_ISLNK(mode):
        return "links in the archive"
    return "file" if stat.S_ISREG(mode) or not stat.S_IFMT(mode) else "pipes or devices"


def _kind_of_member(member: tarfile.TarInfo) -> str:
    """Returns `file`, `folder` or what else an entry of a tar archive is."""
    if member.isdir():
        return "folder"
    if member.issym() or member.islnk():
        return "links in the archive"
    return "file" if member.isreg() else "pipes or devices"


def _zip_name(member: zipfile.ZipInfo) -> str:
    """Returns the name of an entry with `/` between its parts."""
    name = member.filename
    if not member.flag_bits & _ZIP_NAME_IS_UTF8 and not name.isascii():
        # Without that flag the format means code page 437, yet many programs write UTF-8.
        with suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/")


def _file_content(path: str) -> bytes | UserError:
    """Reads a file on disk, and returns what is wrong if it cannot be read."""
    try:
        with open_file(Path(path)) as file:
            if os.fstat(file.fileno()).st_size > MAX_FILE_SIZE:
                return _too_large(path)
            return file.read()
    except FileNotFoundError:
        return _vanished(path)
    except UserError as error:
        return error
    except OSError as error:
        return _unreadable(path, error)


def _too_large(path: str) -> UserError:
    limit = MAX_FILE_SIZE // 2**20
    return UserError(f"{printable(path)}: is larger than {limit} MB, the limit; reduce the image first")


def _vanished(path: str) -> UserError:
    return UserError(f"{printable(path)}: is no longer there; put it back, or start again without it")


def _unreadable(path: str, error: Exception) -> UserError:
    return UserError(
        f"{printable(path)}: cannot be read ({_reason(error)}); check its permissions, or copy it again"
    )


def _damaged_member(path: str, error: Exception) -> UserError:
    return UserError(
        f"{printable(path)}: is damaged in its archive ({_reason(error)}); download or pack the archive again"
    )


def _reason(error: Exception) -> str:
    """Returns the first line of what `error` says, or its kind if it says nothing."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return printable(text.splitlines()[0].rstrip(":"))
