"""How the ranks of a run share one model."""
