"""Optional choices over a corpus: rules, similarity, duplicates and evaluation images."""
