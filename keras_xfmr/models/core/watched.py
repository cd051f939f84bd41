"""Records what happens inside a stack of blocks."""


def run_block(block, *inputs, **arguments):
    """The output of a block."""
    return block(*inputs, **arguments)


class Watched:
    """Runs blocks as `run_block` does, and keeps the input of each, or also its attention weights.

    Args:
        weights: whether to keep the weights.

    Attributes:
        states: the inputs of the blocks.
        weights: attention weights of each block.
        last: the output of `Encoder.encode`.
    """

    def __init__(self, weights=False):
        self._wanted, self.states, self.weights, self.last = weights, [], [], None

    def __call__(self, block, *inputs, **arguments):
        self.states.append(inputs[0])
        if not self._wanted:
            return block(*inputs, **arguments)
        output, weights = block(*inputs, return_attention_scores=True, **arguments)
        self.weights.append(weights)
        return output
