"""Safety alignment: preferences through TRL's trainer, judges, refusals and over-refusals."""
