"""What people and programs see of a command: tables, bars, lines, JSON."""
