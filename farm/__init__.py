"""The render farm's client side: specs, ledger, queue, storage and the `farm` command. Never imports torch."""

__version__ = "0.1.0"
