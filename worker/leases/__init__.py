"""Leases: keeping those of the jobs held, and finding the jobs whose lease has lapsed."""
