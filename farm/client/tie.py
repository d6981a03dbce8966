"""One ledger, one bucket: a ledger is tied to the first bucket it is used with, and another is refused from then on.

Without that a misspelled bucket takes a submission that no worker's results ever reach. The bucket keeps a random id
in `farm/identity.json`, and the ledger keeps that id beside the bucket's name: so a bucket of another name, another
server's of the same name, and one that was deleted and made again can all be told from the ledger's own.
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass

from farm import keys
from farm.bucket.storage import Storage
from farm.errors import ObjectMissing, ObjectTooLarge, StorageError, WrongBucket
from farm.ledger.ledger import Ledger
from farm.ledger.records import Tie

_ID = re.compile(r"[0-9a-f]{32}")
_MAX_BYTES = 4_096
_ADOPT = "'farm recover --adopt-bucket'"


def tie(ledger: Ledger, storage: Storage, *, create: bool = True) -> Tie:
    """Make sure that the ledger belongs to this bucket; one that belongs to none is tied to it.

    Only then is the bucket made if it is not there; without `create` that is an error: `ObjectMissing`. Several may
    do so at once, and agree.
    Raises `WrongBucket` if the ledger belongs to another bucket, `LedgerUnavailable`, `StorageError`.
    """
    pair = _Pair(ledger, storage)
    if (told := ledger.tie()) is not None:
        return pair.same(told)
    if create:
        storage.ensure_bucket()
    else:
        storage.find_bucket()
    found, is_ours = pair.found_or_made()
    told = ledger.set_tie(Tie(storage.bucket, found))
    if is_ours and told.bucket == storage.bucket and told.id != found:  # a server that knows no conditional writes
        _write(storage, told.id)
        return told
    return pair.same(told)


def check(ledger: Ledger, storage: Storage) -> None:
    """For those who only read: raises `WrongBucket` if this is certainly not the ledger's bucket. Ties nothing.

    Credentials that open results need not open the bucket's id, so one that cannot be read is no reason to refuse.
    """
    pair = _Pair(ledger, storage)
    if (told := ledger.tie()) is None:
        return
    pair.same_name(told)
    try:
        found = pair.found()
    except (StorageError, WrongBucket):
        return
    pair.same_id(told, found)


def adopt(ledger: Ledger, storage: Storage) -> Tie:
    """Tie the ledger to this bucket, whatever it belonged to. An id that is missing or damaged is made anew.

    Raises `LedgerUnavailable`, `StorageError`: `ObjectMissing` where there is no such bucket.
    """
    pair = _Pair(ledger, storage)
    storage.find_bucket()
    try:
        found, _ = pair.found_or_made()
    except WrongBucket:  # what is there is not an id
        found = secrets.token_hex(16)
        _write(storage, found)
    return ledger.set_tie(Tie(storage.bucket, found), anew=True)


@dataclass(frozen=True)
class _Pair:
    """A ledger and the bucket that it is used with; says in which way they do not belong together."""

    ledger: Ledger
    storage: Storage

    def found(self) -> str:
        """The id that the bucket holds. Raises `ObjectMissing`, `WrongBucket` where it is damaged, `StorageError`."""
        key = keys.IDENTITY
        try:
            told = json.loads(self.storage.get(key, limit=_MAX_BYTES))
            found = told["id"] if isinstance(told, dict) else None
        except (ValueError, KeyError, RecursionError, ObjectTooLarge):
            found = None
        if not isinstance(found, str) or not _ID.fullmatch(found):
            raise WrongBucket(
                f"{key} of {self.storage.described} does not hold an id by which to know the bucket",
                hint=f"find out who wrote there; if the bucket is the right one: {_ADOPT}",
            )
        return found

    def found_or_made(self) -> tuple[str, bool]:
        """The id that the bucket holds, and whether it is the one made here because there was none."""
        try:
            return self.found(), False
        except ObjectMissing:
            made = secrets.token_hex(16)
            self.storage.put_new(keys.IDENTITY, _written(made), "application/json")
            found = self.found()
            return found, found == made

    def same(self, told: Tie) -> Tie:
        self.same_name(told)
        try:
            found = self.found()
        except ObjectMissing as error:
            raise WrongBucket(
                f"{self.storage.described} is gone, or does not hold the id of the bucket that the ledger at "
                f"{self.ledger.address} belongs to",
                hint="was it deleted, or is FARM_S3_ENDPOINT another server's? "
                f"If it was replaced on purpose: {_ADOPT}",
            ) from error
        self.same_id(told, found)
        return told

    def same_name(self, told: Tie) -> None:
        if told.bucket == self.storage.bucket:
            return
        message = (
            f"the ledger at {self.ledger.address} belongs to the bucket '{told.bucket}', "
            f"not to {self.storage.described}"
        )
        if self._is_a_copy(told):
            raise WrongBucket(
                f"{message}, which is a copy of it", hint=f"to go on with the copy and leave the other: {_ADOPT}"
            )
        raise WrongBucket(message, hint=f"correct FARM_S3_BUCKET; if the bucket was replaced on purpose: {_ADOPT}")

    def same_id(self, told: Tie, found: str) -> None:
        if told.id != found:
            raise WrongBucket(
                f"{self.storage.described} is not the bucket '{told.bucket}' that the ledger at "
                f"{self.ledger.address} belongs to: its id is {found}, not {told.id}",
                hint="was it deleted and made again, or is FARM_S3_ENDPOINT another server's? "
                f"If it was replaced on purpose: {_ADOPT}",
            )

    def _is_a_copy(self, told: Tie) -> bool:
        try:
            return self.found() == told.id
        except (StorageError, WrongBucket):
            return False


def _written(id: str) -> bytes:
    return json.dumps({"id": id}).encode()


def _write(storage: Storage, id: str) -> None:
    storage.put(keys.IDENTITY, _written(id), "application/json")
