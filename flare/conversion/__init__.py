"""Between the field's language models and encoders and the parts of a FLARE."""
