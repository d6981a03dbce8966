"""Does a worker of this host live? Reads what `farm workers --json` writes; ends with 0 if one does, else with 1."""

import json
import socket
import sys


def lives_on(host: str, listing: str) -> bool:
    """Whether a worker of `host` is in the listing. One that is loading its models or draining lives."""
    try:
        workers = json.loads(listing)
    except ValueError:
        return False
    # An error is an object, not a list.
    return isinstance(workers, list) and any(worker["host"] == host for worker in workers)


if __name__ == "__main__":
    sys.exit(not lives_on(socket.gethostname(), sys.stdin.read()))
