"""Conversations in FLARE: their ids, their masks, and their rows in training runs."""
