"""Small questions that a loaded model answers without a step: what it reads, what its autoencoder makes of a picture.

Everything here is a function of a model and a spec. What computes with the model is handed to `Compute`, by the piece.
"""
