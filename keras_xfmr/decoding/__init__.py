"""From a step function to sequences: greedy search, sampling, beam search.

A step function is `step(token_ids, index, state) -> (logits, state)`:

- `token_ids [R]`: the token at position `index` of each of R rows;
- `index`: a scalar int32 tensor;
- `state`: any nest of tensors whose first axis is R (key/value caches, recurrent states);
- `logits [R, V]`: scores of the token at position `index + 1`.

What is the same for every row of a batch element (the encoder's memory) is closed over, not in the
state. Every loop is one `keras.ops.while_loop` of static shapes: it compiles once per shape, and
stops when every sequence has ended.
"""

from keras_xfmr.decoding.beam import beam_search, length_penalty
from keras_xfmr.decoding.loop import SearchResult, greedy_search
from keras_xfmr.decoding.sampling import sample

__all__ = ["SearchResult", "beam_search", "greedy_search", "length_penalty", "sample"]
