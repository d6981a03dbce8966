"""Every socket on which the processes of a farm can be spoken to, from /proc: whatever listens, is found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_LISTENS = {"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"}
_ACCEPTS = 0x10000


@dataclass(frozen=True)
class Door:
    """`kind` is `tcp`, `tcp6`, `udp`, `udp6` or `unix`; `address` an address (hexadecimal if IPv6) or a path."""

    kind: str
    address: str
    port: int = 0


def doors_of(pid: int) -> set[Door]:
    """Those of a process and of all that it started."""
    return {door for process in _family(pid) for door in _doors(process)}


def _family(pid: int) -> Iterator[int]:
    yield pid
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for child in (thread / "children").read_text().split():
            yield from _family(int(child))


def _doors(pid: int) -> Iterator[Door]:
    process = Path(f"/proc/{pid}")
    links = [link.readlink().name for link in (process / "fd").iterdir() if link.is_symlink()]
    inodes = {link.removeprefix("socket:[").removesuffix("]") for link in links if link.startswith("socket:[")}
    for kind, listens in _LISTENS.items():
        for line in (process / "net" / kind).read_text().splitlines()[1:]:
            _, local, _, state, _, _, _, _, _, inode, *_ = line.split()
            if state == listens and inode in inodes:
                address, port = local.split(":")
                numbers = ".".join(str(int(address[at : at + 2], 16)) for at in (6, 4, 2, 0))
                yield Door(kind, address if kind.endswith("6") else numbers, int(port, 16))
    for line in (process / "net" / "unix").read_text().splitlines()[1:]:
        _, _, _, flags, _, _, inode, *path = line.split(maxsplit=7)
        if int(flags, 16) & _ACCEPTS and inode in inodes:
            name = path[0] if path else ""
            yield Door("unix", name if name.startswith("@") else str((process / "cwd").readlink() / name))
