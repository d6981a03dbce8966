"""Stand-ins for the ledger, the bucket and the engine, without servers, devices and threads.

Each keeps the promises of the real one that its callers rely on: both are held to the same tests
(`tests/farm/ledger/test_ledger_transitions.py` and `test_ledger.py`, `tests/farm/bucket/test_objects.py`,
`tests/worker/engine/test_contract.py`).
"""
