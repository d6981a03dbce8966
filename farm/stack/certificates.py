"""The certificates by which the parts of the S3 server know one another, and refuse everybody else.

One authority and one certificate for a farm, made anew at each start: nothing has to be renewed by a person. The
authority's key is used once and kept nowhere, so that nobody can sign another certificate.
"""

from __future__ import annotations

from pathlib import Path

from farm.errors import StackError
from farm.host.private import write_private

AUTHORITY = "authority.pem"
CERTIFICATE = "inner.pem"
KEY = "inner.key"


def make(folder: Path) -> None:
    """Write an authority, a certificate that it signed for 127.0.0.1, and the certificate's key, into `folder`.

    Raises `StackError` when what makes them is not installed.
    """
    try:
        from farm.stack.signing import signed_for_loopback
    except ImportError:
        raise StackError("cryptography is not installed", hint="pip install cryptography") from None
    authority, certificate, key = signed_for_loopback()
    write_private(folder / AUTHORITY, authority)
    write_private(folder / CERTIFICATE, certificate)
    write_private(folder / KEY, key)
