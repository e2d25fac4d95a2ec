"""Reproduce the weights of the embedded model: architecture, data, training and evaluation."""
