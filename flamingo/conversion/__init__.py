"""Between the field's Flamingo checkpoints and ours: tables of keys, read in both directions."""
