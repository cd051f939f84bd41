"""From a decoder or a step function to sequences: greedy search, sampling, beam search.

A model's decoder is a `Decoder`: `init_state`, `prefill`, which reads a prompt at once, and `step`.
In its place every search takes a step function `step(token_ids, index, state) -> (logits, state)`:

- `token_ids [R]`: the token at position `index` of each of R rows;
- `index`: a scalar int32 tensor;
- `state`: any nest of tensors whose first axis is R (key/value caches, recurrent states);
- `logits [R, V]`: scores of the token at position `index + 1`.

What is the same for every row of a batch element (the encoder's memory) is closed over, not in the
state. Every loop is one `keras.ops.while_loop` of static shapes: it compiles once per shape, and
stops when every sequence has ended.
"""

from keras_xfmr.decoding.beam import beam_search, length_penalty
from keras_xfmr.decoding.decoder import Decoder
from keras_xfmr.decoding.loop import ScoredSearchResult, SearchResult, greedy_search
from keras_xfmr.decoding.sampling import sample
from keras_xfmr.decoding.stream import TokenStream

__all__ = [
    "Decoder",
    "ScoredSearchResult",
    "SearchResult",
    "TokenStream",
    "beam_search",
    "greedy_search",
    "length_penalty",
    "sample",
]
