"""The GPU side: Celery task, lease, publishing, the step-batching engine, diffusion and models."""
