"""A third party's losses that misbehave on demand, in a distribution of their own as pip would install it.

They are what a test needs of a job that takes its time, hangs the engine, or brings the process down: real code on
the engine's own thread, chosen by name like every loss. Flags are files in the folder `$FAULT_FLAGS`.
"""

from __future__ import annotations

from pathlib import Path

_MODULE = """
import contextlib, os, signal, threading, time
from pathlib import Path

from farm.jobs.losses import Argument, LossDeclaration

FLAGS = Path(os.environ["FAULT_FLAGS"])


class Misbehaving:
    def __init__(self, name, *arguments):
        self.declaration = LossDeclaration(name, "for tests", arguments, default_scale=1.0)

    def __call__(self, images, **arguments):
        getattr(self, self.declaration.name)(**arguments)
        return images.mean(dim=(1, 2, 3))

    def pace(self, seconds):
        with (FLAGS / "paces").open("a") as file:
            file.write(f"{time.time()}\\n")
        time.sleep(seconds)

    def hang(self):
        with contextlib.suppress(FileNotFoundError):
            (FLAGS / "hang").unlink()  # one hang a flag
            threading.Event().wait()

    def poison(self):
        if (FLAGS / "poison").exists():
            signal.raise_signal(signal.SIGSEGV)


pace = Misbehaving("pace", Argument("seconds", 0.1, 0.0, 60.0, "how long each use takes"))
hang = Misbehaving("hang")
poison = Misbehaving("poison")
"""

_METADATA = "Metadata-Version: 2.1\nName: misbehaving-losses\nVersion: 1.0\n"
_ENTRY_POINTS = "[farm.losses]\n" + "".join(f"{name} = misbehaving:{name}\n" for name in ("pace", "hang", "poison"))


def install(folder: Path) -> Path:
    """Put the distribution into `folder`, which is to be on PYTHONPATH, and return it."""
    described = folder / "misbehaving_losses-1.0.dist-info"
    described.mkdir(parents=True)
    (folder / "misbehaving.py").write_text(_MODULE, encoding="utf-8")
    (described / "METADATA").write_text(_METADATA, encoding="utf-8")
    (described / "entry_points.txt").write_text(_ENTRY_POINTS, encoding="utf-8")
    return folder


def paced(seconds: float, *, every: int = 1) -> dict[str, object]:
    """The fields of a request whose every `every`th step takes `seconds` more than it would.

    The engine's thread sleeps for each job: all that share a worker wait for one another. Each use of a loss is a
    gradient to compute too, so that rare long sleeps cost less than many short ones.
    """
    return {"losses": [{"name": "pace", "arguments": {"seconds": seconds}, "scale": 1.0, "every": every}]}
