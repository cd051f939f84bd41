"""Special tokens that were added to a published vocabulary, at any id."""

from keras_xfmr.common.files import read_json


def added_token(content, *, special, **ids):
    """An entry of `tokenizer.json` and `tokenizer_config.json`: a token that is found exactly."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {**ids, "content": content, **flags, "special": special}


def in_order(ids, added, ordinary=()):
    """The tokens in the order of their ids, with the added special ones.

    Args:
        ids: token -> id.
        added: objects of `content`, `id` and `special`.
        ordinary: added tokens that may be without the mark `special`.

    Raises:
        ValueError: an added token is not special; ids are not 0 .. V - 1, each once.
    """
    ids = {**ids}
    for token in added:
        if not isinstance(token, dict) or not isinstance(token.get("content"), str):
            raise ValueError("The tokenizer's files are damaged: an added token has no content.")
        if not token.get("special") and token["content"] not in ordinary:
            raise ValueError(
                "Expected added tokens to be special. Received: "
                f"{token['content']!r}, which others find in texts that are normalized. Take it "
                "out of the files, and call the tokenizer's `with_added_tokens`, which finds it as "
                "it is spelled."
            )
        if ids.setdefault(token["content"], token.get("id")) != token.get("id"):
            raise ValueError(f"The tokenizer's files give {token['content']!r} two ids.")
    if any(type(index) is not int for index in ids.values()):
        raise ValueError("The tokenizer's files are damaged: an id is no integer.")
    if sorted(ids.values()) != list(range(len(ids))):
        raise ValueError(f"Expected each id 0 .. {len(ids) - 1} once in the tokenizer's files.")
    return sorted(ids, key=ids.get)


def added_beside(folder, config, special):
    """Tokens that were added to a vocabulary, as `tokenizer.json` would list them.

    Args:
        folder: may have an `added_tokens.json`.
        config, special: the contents of `tokenizer_config.json` and `special_tokens_map.json`.
    """
    further = [part.get("additional_special_tokens") or [] for part in (config, special)]
    if not all(isinstance(tokens, list) for tokens in further):
        raise ValueError("The tokenizer's files are damaged: special tokens are no list.")
    further = [t.get("content") if isinstance(t, dict) else t for tokens in further for t in tokens]
    decoder, added = config.get("added_tokens_decoder") or {}, []
    if not isinstance(decoder, dict):
        raise ValueError("tokenizer_config.json is damaged: `added_tokens_decoder` is no object.")
    for index, token in decoder.items():
        index = int(index) if index.isdecimal() and len(index) < 10 else index
        added.append({**token, "id": index} if isinstance(token, dict) else token)
    path = folder / "added_tokens.json"
    said = {token["id"] for token in added if isinstance(token, dict)}
    for content, index in (read_json(path) if path.is_file() else {}).items():
        if type(index) is not int:
            raise ValueError(f"added_tokens.json is damaged: {content!r} has no number.")
        if index not in said:
            added.append({"content": content, "id": index, "special": content in further})
    return added
