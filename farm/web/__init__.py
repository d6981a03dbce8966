"""The site and its HTTP APIs: one process that is a client of the farm, and holds no truth."""
