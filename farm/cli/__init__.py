"""The `farm` command: one file per noun. Nothing heavier than click is imported before a command needs it."""
