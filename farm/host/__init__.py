"""What the farm takes from the machine that a command runs on: its home, its lock, places for files, its log."""
