"""Shared rooms of FLARE and Flamingo: attention, layers, encoders, data, training, evaluation."""
