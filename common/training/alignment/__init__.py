"""Instruction tuning and preferences through TRL's trainers, for any model that can chat."""
