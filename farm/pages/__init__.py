"""Pages to look at: one HTML file that works from a disk and asks nobody for anything."""
