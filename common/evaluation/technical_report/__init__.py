"""The technical report of runs, evaluations and alignments: one chapter a file."""
