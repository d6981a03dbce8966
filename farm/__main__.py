"""`python -m farm`: the `farm` command."""

import sys

# Python puts the user's folder first, where a redis.py or torch.py of theirs would be taken for the real one.
if not sys.flags.safe_path and sys.path and not sys.path[0].endswith(".zip"):
    sys.path.pop(0)

from farm.cli.main import main

if __name__ == "__main__":
    main()
