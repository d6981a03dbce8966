"""Wake-up messages: from Celery's queues to a claim."""
