"""What every rank of the tests would make anew: imported by the process they are forked from."""

from flare.corpora import embedded_tokenizer

embedded_tokenizer()  # kept by the function
