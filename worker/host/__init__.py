"""The machine that a worker runs on: memory and cores, disk, home, and how earlier processes ended."""
