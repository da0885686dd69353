"""Text from a model, as both models write it."""
