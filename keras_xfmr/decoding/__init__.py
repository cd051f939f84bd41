"""From a decoder or a step function to sequences: greedy search, sampling, beam search.

The decoder of a model is a `Decoder`: `init_state`, `prefill` (reads a whole prompt) and `step`.
Every search also accepts a step function `step(token_ids, index, state) -> (logits, state)`:

- `token_ids [R]`: the token at position `index` of each of R rows;
- `index`: a scalar int32 tensor;
- `state`: any nest of tensors whose first axis is R (key/value caches, recurrent states);
- `logits [R, V]`: scores of the token at position `index + 1`.

The step function closes over what all rows of a batch element share (the encoder's memory); it is
not in the state. Every loop is one `keras.ops.while_loop` with static shapes: it compiles once per
shape, and stops when every sequence has ended.
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
