"""Thumbnails: pictures made small for lists, once, and kept in a folder of bounded size under the picture's SHA-256."""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from farm.bucket.results import ResultObject
from farm.errors import HomeRefused, InvalidInput
from farm.host import homes
from farm.pictures.images import MAX_BYTES, decode
from farm.web.problems import Refused

SIDE = 320
"""Pixels of the longer side, at the most."""
MEDIA_TYPE = "image/webp"
FOLDER = "web-thumbnails"
MOST_BYTES = 512 * 2**20
_KEPT_SHARE = 0.8
_QUALITY = 80


class Thumbnails:
    """The thumbnails in a home's folder, which has `most` bytes; what was not looked at for longest goes first."""

    def __init__(self, home: Path, *, most: int = MOST_BYTES) -> None:
        self._folder, self._most = home / FOLDER, most
        self._lock = threading.Lock()
        self._bytes: int | None = None

    def of(self, picture: ResultObject, read: Callable[[ResultObject], bytes]) -> bytes:
        """The thumbnail of a picture, which is `read` only if none is kept.

        Raises what `read` does, and `Refused` for what cannot be made small.
        """
        path = self._folder / f"{picture.sha256}.webp"
        with contextlib.suppress(OSError):
            data = path.read_bytes()
            os.utime(path)
            return data
        if picture.size > MAX_BYTES:
            raise _no_thumbnail(f"it is larger than {MAX_BYTES // 2**20} MiB")
        data = _small(read(picture))
        with contextlib.suppress(OSError, HomeRefused):  # a full disk keeps nobody from looking
            self._keep(path, data)
        return data

    def _keep(self, path: Path, data: bytes) -> None:
        with self._lock:
            homes.make(self._folder)
            if self._bytes is None:
                self._bytes = sum(size for _, size, _ in self._kept())
            if self._bytes + len(data) > self._most:
                self._make_room(len(data))
            unfinished = path.with_suffix(f".{os.getpid()}.part")
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            unfinished.replace(path)
            self._bytes += len(data)

    def _make_room(self, wanted: int) -> None:
        left = 0
        for _, size, path in sorted(self._kept(), reverse=True):
            if left + size > self._most * _KEPT_SHARE - wanted:
                path.unlink(missing_ok=True)
            else:
                left += size
        self._bytes = left

    def _kept(self) -> list[tuple[int, int, Path]]:
        """When each file was last looked at, its size, and where it is."""
        found = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                about = entry.stat(follow_symlinks=False)
                found.append((about.st_mtime_ns, about.st_size, Path(entry.path)))
        return found


def _small(data: bytes) -> bytes:
    try:
        picture = decode(data, name="the picture")
    except InvalidInput as error:
        raise _no_thumbnail(error.reason) from error
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
    file = io.BytesIO()
    picture.convert("RGB").save(file, "WEBP", quality=_QUALITY, method=0)
    return file.getvalue()


def _no_thumbnail(why: str) -> Refused:
    return Refused(404, "no-thumbnail", f"this picture has no thumbnail: {why}")
