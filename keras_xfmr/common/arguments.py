"""Names of constructor arguments, and suggestions for unknown names."""

import difflib
import inspect

ALIKE = 0.8  # of two words: `layer` and `layers` are, `initializer` and `regularizer` are not
# Names of one thing: ours, and those of transformers, KerasHub and torch.
SAME = (
    ("d_model", "hidden_size", "hidden_dim", "embed_dim", "n_embd"),
    ("num_heads", "num_attention_heads", "n_head", "n_heads", "nhead"),
    ("num_key_value_heads", "num_kv_heads"),
    ("ffn_dim", "intermediate_size", "intermediate_dim", "n_inner", "dim_feedforward"),
    ("num_layers", "num_hidden_layers", "n_layer", "n_layers"),
    ("max_length", "max_position_embeddings", "max_sequence_length", "n_positions", "n_ctx"),
    ("dropout_rate", "dropout", "rate", "hidden_dropout_prob", "resid_pdrop"),
    ("attention_dropout_rate", "attention_dropout", "attention_probs_dropout_prob", "attn_pdrop"),
    ("embedding_dropout_rate", "embd_pdrop"),
    ("epsilon", "eps", "layer_norm_eps", "layer_norm_epsilon"),
    ("activation", "hidden_act", "activation_function"),
    ("pad_id", "pad_token_id"),
    ("start_id", "bos_token_id"),
    ("end_id", "eos_token_id"),
    ("num_classes", "num_labels"),
    ("weight_decay", "weight_decay_rate"),
)


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
    """A sentence for each unknown name that means the same as a known one, with the known name."""
    for name in sorted(set(unknown) - set(known)):
        same = [one for names in SAME if name in names for one in names]
        meant = [one for one in known if one in same]
        meant = meant or [one for one in known if _is_misspelled(name, one)]
        yield from (f" {name} is {one} here." for one in meant[:1])


def _is_misspelled(name, known):
    """Whether two names are alike, word by word: `bos_token_id` is not `eos_token_id`."""
    words = name.split("_"), known.split("_")
    return len(words[0]) == len(words[1]) and all(
        difflib.SequenceMatcher(None, *pair).ratio() >= ALIKE for pair in zip(*words)
    )
