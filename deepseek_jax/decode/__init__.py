"""Decoding: sampling from a model with the parameters and code that train it."""
