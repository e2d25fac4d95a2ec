"""Reproduce the weights of the embedded models: architectures, data, training, evaluation."""
