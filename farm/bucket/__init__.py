"""The bucket: manifests, results and previews in any S3-compatible object storage."""
