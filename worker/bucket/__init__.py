"""What workers take from the bucket besides jobs: models, and kernels that others have compiled."""
