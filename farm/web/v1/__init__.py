"""The farm's own API, `/api/v1`: everything that `FarmClient` can do, a subject a module."""
