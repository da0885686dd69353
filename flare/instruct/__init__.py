"""Instruction tuning: chat messages, their masks, TRL's trainer, answers and their score."""
