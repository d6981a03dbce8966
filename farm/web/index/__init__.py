"""The index of finished pictures: a file beside the server, by which they are found. It holds no truth."""
