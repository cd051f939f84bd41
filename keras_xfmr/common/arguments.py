"""Names of constructor arguments, and suggestions for unknown names."""

import difflib
import inspect

# transformers' names of arguments -> ours.
OURS = {
    "hidden_size": "d_model",
    "num_attention_heads": "num_heads",
    "intermediate_size": "ffn_dim",
    "num_hidden_layers": "num_layers",
    "max_position_embeddings": "max_length",
    "hidden_dropout_prob": "dropout_rate",
    "attention_probs_dropout_prob": "attention_dropout_rate",
    "layer_norm_eps": "epsilon",
    "eps": "epsilon",
    "num_labels": "num_classes",
}


def argument_names(classes):
    """Names of the arguments of constructors that pass `**kwargs` to each other, in this order."""
    names = []
    for kind in (kind for kind in classes if "__init__" in vars(kind)):
        parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
        named = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        names += [name for name in named if name not in names]
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            break
    return names


def refuse_unknown(kind, given, known=None):
    """Raises TypeError where an argument of a class has a name that is none of its own.

    Args:
        kind: the class.
        given: names of arguments.
        known: those that there are; None: all of the constructors of the class.
    """
    known = argument_names(kind.__mro__) if known is None else known
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise TypeError(
            f"{kind.__name__} takes the arguments {', '.join(known)}. "
            f"Received: {', '.join(unknown)}.{''.join(hints(unknown, known))}"
        )


def hints(unknown, known):
    """A sentence for each unknown name that is similar to a known one, with the known name."""
    for name in sorted(set(unknown) - set(known)):
        near = [OURS[name]] if name in OURS else difflib.get_close_matches(name, known, 1, 0.7)
        yield from (f" {name} is {one} here." for one in near if one in known)
