"""`FarmClient`: submit, follow and fetch from Python, as the `farm` command does."""

from farm.client.client import FarmClient

__all__ = ["FarmClient"]
