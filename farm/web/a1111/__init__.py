"""The API of A1111's web UI, `/sdapi/v1`, for the programs that know it: what they ask is asked of the farm."""
