"""Processes of Python that begin with all that a worker imports: a rehearsal would spend half of its time on that.

`install()` makes a fork of this process of each `python -m MODULE …` that is started from then on, if it would import
torch. All else is as it would be: the command, the environment, the streams, the signals and the exit status.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

_FORKED = ("tests.gpu", "tests.gpu.digests", "worker")
_MOST_DESCRIPTORS = 4096


class _Popen(subprocess.Popen[Any]):
    def _execute_child(self, args: Sequence[str], *rest: Any) -> None:
        if list(args[:2]) != [sys.executable, "-m"] or args[2] not in _FORKED:
            return super()._execute_child(args, *rest)  # type: ignore[misc,no-any-return]
        environment, pipes = rest[5], rest[9:15]
        stdin, _, _, stdout, _, stderr = pipes
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _become(args[2], args[3:], environment, (stdin, stdout, stderr))
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def install() -> None:
    """For this process and all that it forks."""
    subprocess.Popen = _Popen  # type: ignore[misc]


def _become(
    module: str, arguments: Sequence[str], environment: Mapping[str, str] | None, streams: Sequence[int]
) -> NoReturn:
    """What `python -m` does with a module, from its beginning to its end. A stream of -1 is inherited."""
    status: Any = 1
    try:
        for number, descriptor in enumerate(streams):
            if descriptor != -1:
                os.dup2(descriptor, number)
        os.closerange(3, _MOST_DESCRIPTORS)
        if environment is not None:
            os.environ.clear()
            os.environ.update(environment)
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as ended:
        status = ended.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else int(status is not None))
