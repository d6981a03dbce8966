"""Leases: keeping those of the jobs in hand, and finding the jobs whose lease has lapsed."""
