"""Families of models: what tells one from another, a module each."""
