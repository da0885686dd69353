"""Safety alignment: pairs of answers in FLARE's training runs."""
