"""Files of weights that are sent to the site: each lies in the home for as long as it takes to keep it in the farm,
bounded, for its user alone, and is gone whatever happens.

A file is locked by the server that takes it. What a server left that was killed is locked by nobody, and swept by the
next one. So several servers may have one home.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from starlette.requests import ClientDisconnect, Request

from farm.errors import HomeRefused
from farm.host import homes
from farm.web.bridge import Bridge
from farm.web.limits import Limits
from farm.web.problems import Refused, later

FOLDER = "web-uploads"
_PIECE = 2**20
"""So many bytes are written at once."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LENGTH = 8
"""Of the number with which safetensors begin: the length of their header."""
_LONGEST_HEADER = 128 * 2**20
"""One that says to be longer than any is looked at without it, and refused."""


class Upload:
    """A file that somebody sends, and how far that has got, and keeping it: see `farm.client.keeping.Progress`.

    `what` is a model or a LoRA, to be called `name`. Of what is being done to it `done` bytes are done, of `total`
    where that is known.
    """

    def __init__(self, what: str, name: str, by: str, size: int | None) -> None:
        self.what, self.name, self.by, self.began = what, name, by, datetime.now(UTC)
        self.doing, self.done, self.total = "receiving", 0, size
        self.path = Path()
        self._descriptor = -1
        self._counting, self._using = threading.Lock(), threading.Lock()

    def begin(self, what: str, total: int) -> None:
        """Something else is done from now on."""
        with self._counting:
            self.doing, self.total, self.done = what, total, 0

    def advance(self, number: int) -> None:
        """So many more bytes of it are done."""
        with self._counting:
            self.done += number

    @property
    def to_come(self) -> int:
        """The bytes that the disk is still to take, as far as that is known."""
        return max(0, (self.total or 0) - self.done) if self.doing == "receiving" else 0

    def make_file(self, folder: Path) -> None:
        """Make the file, locked. Raises `OSError`."""
        with self._using:
            while self._descriptor < 0:
                self.path = folder / f"{secrets.token_hex(8)}.part"
                self._descriptor = _locked(self.path)

    def write(self, data: bytes) -> None:
        """Write all of it at the end of what was written. Raises `OSError`."""
        with self._using:
            left = memoryview(data)
            while left:
                left = left[os.write(self._descriptor, left) :]

    @property
    def has_header(self) -> bool:
        """Whether as much has come as its first bytes say that its header has."""
        with self._using:
            length = int.from_bytes(os.pread(self._descriptor, _LENGTH, 0), "little")
        return length > _LONGEST_HEADER or self.done >= _LENGTH + length

    def grow(self, size: int) -> None:
        """Give it its size. Of what has not come yet the disk takes nothing."""
        with self._using:
            os.ftruncate(self._descriptor, size)

    def remove(self) -> None:
        """Its name goes at once, and by a thread what it takes on the disk: of a large file that takes a moment."""
        if self.path.name:
            self.path.unlink(missing_ok=True)
        asyncio.get_running_loop().run_in_executor(None, self._close)

    def _close(self) -> None:
        with self._using:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1


class Uploads:
    """The files that come to a home. What is done to them, on the disk and in the bucket, is done over `bridge`.

    A `local` farm has its bucket on the same disk, which has to take everything twice.
    """

    def __init__(self, home: Path, limits: Limits, *, local: bool = False) -> None:
        self._folder, self._limits, self._copies = home / FOLDER, limits, 2 if local else 1
        self.under_way: dict[tuple[str, str], Upload] = {}
        self.bridge = Bridge("uploads", threads=limits.uploads + 1, waiting=100)

    def sweep(self) -> None:
        """Remove what servers left that were killed."""
        with contextlib.suppress(FileNotFoundError):
            for path in list(self._folder.iterdir()):
                with contextlib.suppress(OSError):
                    _remove_if_free(path)

    @asynccontextmanager
    async def place(self, what: str, name: str, by: str, size: int | None) -> AsyncIterator[Upload]:
        """A file to put into what somebody sends, of so many bytes if that is known. It is gone afterwards.

        Raises `Refused` where too many come at once, one of the same name comes already, or the disk has no room.
        """
        upload = Upload(what, name, by, size)
        if (what, name) in self.under_way:
            raise later(409, "upload-under-way", f"a {what} {name!r} is being sent at this moment", 5)
        if len(self.under_way) >= self._limits.uploads:
            raise later(503, "busy", f"{self._limits.uploads} files are being sent to the site already", 30)
        self.under_way[what, name] = upload
        try:
            await self.bridge(self._open, upload, size)
            yield upload
        finally:
            del self.under_way[what, name]
            upload.remove()

    async def receive(self, upload: Upload, request: Request, *, most: int, look: Callable[[], object]) -> None:
        """Write what a request brings into the file. `look` is called as soon as its header has come, and may raise.

        By then the file has the size that it is to have. Raises `Refused` for more bytes than `most` or than the
        request said, for fewer, for a sender who pauses for too long, and for a full disk.
        """
        told = upload.total
        waiting = bytearray()
        is_looked_at = False
        async for part in self._parts(request):
            upload.advance(len(part))
            if upload.done > most:
                raise too_large(most)
            if told is not None and upload.done > told:
                raise Refused(400, "body-too-long", "the body is longer than its Content-Length")
            waiting += part
            if len(waiting) >= _PIECE:
                await self.bridge(self._write, upload, bytes(waiting))
                waiting.clear()
                if told is not None and not is_looked_at and upload.has_header:
                    is_looked_at = True
                    await self.bridge(upload.grow, told)
                    await self.bridge(look)
        if told is not None and upload.done < told:
            raise _not_whole()
        await self.bridge(self._write, upload, bytes(waiting))

    async def look(self, header: bytes, size: int, look: Callable[[Path], object]) -> None:
        """`look` at a file of which there is no more than the beginning, as if it had its `size`. What it raises is
        raised, and `Refused` if the disk has no room for all of it."""
        upload = Upload("", "", "", size)
        try:
            await self.bridge(self._open, upload, size)
            await self.bridge(self._write, upload, header[:size])
            await self.bridge(upload.grow, size)
            await self.bridge(look, upload.path)
        finally:
            upload.remove()

    async def _parts(self, request: Request) -> AsyncIterator[bytes]:
        """The body as it comes."""
        stream = aiter(request.stream())
        try:
            while True:
                async with asyncio.timeout(self._limits.pause_seconds):
                    part = await anext(stream, None)
                if part is None:
                    return
                yield part
        except TimeoutError:
            raise Refused(408, "body-too-slow", "nothing more of the body came for too long") from None
        except ClientDisconnect:
            raise _not_whole() from None

    def _open(self, upload: Upload, size: int | None) -> None:
        try:
            homes.make(self._folder)
            self._check_room(size or 0, besides=upload)
            upload.make_file(self._folder)
        except OSError as error:
            self._unusable(error)

    def _write(self, upload: Upload, data: bytes) -> None:
        try:
            self._check_room(len(data), besides=None)
            upload.write(data)
        except OSError as error:
            self._unusable(error)

    def _check_room(self, wanted: int, *, besides: Upload | None) -> None:
        """Raise `Refused` unless the disk has room for so many bytes, and for what others were promised if `besides`
        whom is said."""
        promised = (
            0 if besides is None else sum(one.to_come for one in [*self.under_way.values()] if one is not besides)
        )
        room = shutil.disk_usage(self._folder).free - self._limits.spare - promised * self._copies
        if wanted * (self._copies if besides else 1) > room:
            raise _full()

    def _unusable(self, error: OSError) -> NoReturn:
        if error.errno in _FULL:
            raise _full() from error
        raise HomeRefused(f"the site's folder for files that come cannot be used: {error.strerror}") from error


def too_large(most: int) -> Refused:
    """The refusal of a body of more than `most` bytes."""
    return Refused(413, "body-too-large", f"the body has more than {most:,} bytes")


def _not_whole() -> Refused:
    return Refused(400, "body-not-whole", "the connection ended before the body did")


def _full() -> Refused:
    return Refused(507, "disk-full", "the site's disk has no room for it", hint="the command 'farm' needs none there")


def _locked(path: Path) -> int:
    """Make a file that is locked; -1 if somebody swept it away before it was."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    if _lock(descriptor) and path.exists():
        return descriptor
    os.close(descriptor)
    return -1


def _remove_if_free(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if _lock(descriptor):
            path.unlink()
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
