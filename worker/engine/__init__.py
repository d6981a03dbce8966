"""The step-batching engine. It knows nothing of queues, ledgers or buckets: it takes requests and gives images."""
