"""What a worker does with one job, from its claim to its end."""
