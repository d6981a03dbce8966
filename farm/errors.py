"""Every error that a person may meet, in one tree.

    FarmError                    something went wrong that the user can act on        exit 1
    ├── InvalidInput             an option, a file or a message is not acceptable     exit 2
    ├── NotConfigured            no farm is known: neither a local one nor servers
    ├── LedgerUnavailable        Redis does not answer, or answers with an error
    │   └── LedgerRefused        Redis does not let us in, denies a right, or shows a certificate that is not trusted
    ├── StorageError             the bucket does not answer, or refuses
    │   ├── ObjectMissing        the bucket answers, and the object is not there
    │   ├── ObjectTooLarge       the object is larger than one of its kind may be
    │   └── ObjectDamaged        the object is not what its key says
    ├── WrongBucket              the ledger belongs to a bucket other than this one
    ├── JobNotFound              no job or batch has this id
    ├── WorkerNotFound           no live worker is called so
    ├── WrongState               the job is not in a state in which this can be done
    │   └── NameTaken            the farm keeps another model or LoRA of this name
    ├── FetchRefused             a fetched object cannot be kept (checksum, other file)
    ├── ModelError               a model is unknown or cannot be loaded
    │   └── ModelUnavailable     the hub does not answer, or a disk is full: it may work later
    ├── RenderError              one job cannot be rendered; carries a stable `kind`
    └── StackError               the local farm cannot be started or stopped
        └── HomeRefused          its folder cannot be used, or others can write to it

A message says what was being done and to what; a hint says what to try. Anything that is not a
`FarmError` is a bug of ours and keeps its traceback.
"""

from __future__ import annotations


class FarmError(Exception):
    """A failure that the user is told of in one line, with a hint, and the exit code `exit_code`."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class InvalidInput(FarmError):
    """Input that cannot be accepted. `field` names the option or field at fault, if one is; `reason` says why."""

    exit_code = 2

    def __init__(self, message: str, *, field: str | None = None, hint: str | None = None) -> None:
        super().__init__(f"{field}: {message}" if field else message, hint=hint)
        self.field = field
        self.reason = message


class NotConfigured(FarmError):
    """There is neither a running local farm nor an address of servers in the environment."""


class LedgerUnavailable(FarmError):
    """Redis cannot be reached, refuses the password, fails a command, or holds a record that cannot be read."""


class LedgerRefused(LedgerUnavailable):
    """Redis refuses the password, denies a right, or shows a certificate that is not trusted: waiting does not help."""


class StorageError(FarmError):
    """The bucket cannot be reached or refuses an operation."""


class ObjectMissing(StorageError):
    """The bucket has no object under this key."""


class ObjectTooLarge(StorageError):
    """The object has more bytes than may be read of its kind."""


class ObjectDamaged(StorageError):
    """The object's bytes are not what they should be."""


class WrongBucket(FarmError):
    """The ledger belongs to another bucket, or the one it belongs to was replaced."""


class JobNotFound(FarmError):
    """No job or batch has this id, or a prefix names more than one."""


class WorkerNotFound(FarmError):
    """No live worker has this id or name."""


class WrongState(FarmError):
    """The job exists, but what was asked cannot be done in its present state."""


class NameTaken(WrongState):
    """The farm keeps another model or LoRA under a name, and is not told to put this one in its place."""


class FetchRefused(FarmError):
    """A fetched object does not match its checksum, or would overwrite another file."""


class ModelError(FarmError):
    """A model is unknown, incomplete, unsafe to load, or not of Stable Diffusion's layout."""


class ModelUnavailable(ModelError):
    """A model is unavailable for now, for a cause that can pass: a hub that does not answer, a disk without room."""


class RenderError(FarmError):
    """One job cannot be rendered. `kind` is a stable word for programs: `nan`, `memory`, `timeout`, …"""

    def __init__(self, kind: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.kind = kind


class StackError(FarmError):
    """The local farm's servers cannot be started, found or stopped."""


class HomeRefused(StackError):
    """The local farm's folder cannot be used: it is another user's, or others can write to it or replace it."""
