"""The certificates by which the parts of the S3 server know one another, and refuse everybody else.

One authority and one certificate for a farm, made anew at each start: nothing has to be renewed by a person. The
authority's key is used once and kept nowhere, so that nobody can sign another certificate.
"""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from farm.errors import StackError
from farm.stack.layout import write_private

AUTHORITY = "authority.pem"
CERTIFICATE = "inner.pem"
KEY = "inner.key"

# Longer than a farm runs without a restart.
_LIFETIME = timedelta(days=3650)
# A machine that starts with a wrong clock, as those without a battery do, accepts it too.
_BEGIN = datetime(2020, 1, 1, tzinfo=UTC)


def make(folder: Path) -> None:
    """Write an authority, a certificate that it signed for 127.0.0.1, and that one's key, into `folder`.

    Raises `StackError` when what makes them is not installed.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
    except ImportError:
        raise StackError("cryptography is not installed", hint="pip install cryptography") from None

    def named(name: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])

    def begun(subject: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(named(subject))
            .issuer_name(named("farm authority"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_BEGIN)
            .not_valid_after(datetime.now(UTC) + _LIFETIME)
        )

    signing, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = (
        begun("farm authority", signing)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(signing, hashes.SHA256())
    )
    certificate = (
        begun("farm", own)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .sign(signing, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    write_private(folder / AUTHORITY, authority.public_bytes(pem).decode())
    write_private(folder / CERTIFICATE, certificate.public_bytes(pem).decode())
    unencrypted = serialization.NoEncryption()
    kept = own.private_bytes(pem, serialization.PrivateFormat.PKCS8, unencrypted)
    write_private(folder / KEY, kept.decode())
