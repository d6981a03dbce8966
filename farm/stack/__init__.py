"""The local farm: a real Redis, a real S3 server and workers on this machine, under one supervisor."""

from farm.stack.control import start_detached, status, stop, up, wait_for_door, wait_for_workers
from farm.stack.state import ChildStatus, FarmStatus

__all__ = ["ChildStatus", "FarmStatus", "start_detached", "status", "stop", "up", "wait_for_door", "wait_for_workers"]
