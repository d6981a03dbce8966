"""What an attempt makes and leaves: image, trace, checkpoint, preview, and its result in the bucket."""
