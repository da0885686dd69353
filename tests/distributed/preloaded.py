"""What every rank of the tests would make anew: imported by the process they are forked from."""

import gc

from flamingo.corpora import EMBEDDED_VOCAB_SIZE
from flamingo.corpora import embedded_tokenizer as tokenizer_of_flamingo
from flare.corpora import embedded_tokenizer as tokenizer_of_flare

# Kept by the functions.
tokenizer_of_flamingo(EMBEDDED_VOCAB_SIZE)
tokenizer_of_flare()
# A collection in a rank would look at, and so copy, all that was imported.
gc.freeze()
