"""Models by name: where they come from, how they are loaded, and which stay warm."""
