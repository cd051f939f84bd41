"""ELMo's tables: a file in bilm-tf's layout fills a model, and goes back.

Sizes: units 7, projection 5, layers 2, characters of 3, 3 convolutions (2 + 3 + 8 outputs), 1
highway, 17 words.
"""

import json

import elmo_oracles as oracles
import h5py
import numpy as np
import pytest
import tensorflow as tf

from keras_xfmr import checkpoints, text
from keras_xfmr.models import Elmo
from keras_xfmr.models import ElmoLanguageModel as LanguageModel

WORDS, PROJECTED, UNITS = 17, 5, 7
OPTIONS = {
    "lstm": {"dim": UNITS, "projection_dim": PROJECTED, "n_layers": 2, "use_skip_connections": True}
    | {"cell_clip": 3, "proj_clip": None},
    "char_cnn": {"embedding": {"dim": 3}, "filters": [[1, 2], [2, 3], [3, 8]], "n_highway": 1}
    | {"n_characters": 262, "max_characters_per_token": 11, "activation": "tanh"},
    "dropout": 0.2,
}
LSTM = {
    "W_0": (2 * PROJECTED, 4 * UNITS),
    "B": (4 * UNITS,),
    "W_P_0": (UNITS, PROJECTED),
}
SHAPES = {
    "char_embed": (261, 3),
    **{f"CNN/W_cnn_{i}": (1, i + 1, 3, n) for i, n in enumerate((2, 3, 8))},
    **{f"CNN/b_cnn_{i}": (n,) for i, n in enumerate((2, 3, 8))},
    **{f"CNN_high_0/W_{part}": (13, 13) for part in ("carry", "transform")},
    **{f"CNN_high_0/b_{part}": (13,) for part in ("carry", "transform")},
    "CNN_proj/W_proj": (13, PROJECTED),
    "CNN_proj/b_proj": (PROJECTED,),
    **{
        f"RNN_{direction}/RNN/MultiRNNCell/Cell{layer}/LSTMCell/{name}": shape
        for direction in range(2)
        for layer in range(2)
        for name, shape in LSTM.items()
    },
}
SOFTMAX = {"softmax/W": (WORDS, PROJECTED), "softmax/b": (WORDS,)}


def draw(shapes):
    generator = np.random.default_rng(0)
    return {name: generator.normal(size=shape).astype("float32") for name, shape in shapes.items()}


def write(folder, arrays=None, options=OPTIONS):
    (folder / "options.json").write_text(json.dumps(options))
    checkpoints.write_hdf5(folder / "lm_weights.hdf5", draw(SHAPES) if arrays is None else arrays)
    return folder


def changed(**options):
    """The options with others in the place of those at these dotted names; None takes one away."""
    config = json.loads(json.dumps(OPTIONS))
    for name, value in options.items():
        *groups, last = name.split(".")
        place = config
        for group in groups:
            place = place[group]
        place[last] = value
        if value is None:
            del place[last]
    return config


def arrays_of(path):
    with h5py.File(path) as file:
        names = []
        file.visititems(lambda name, item: names.append(name) if hasattr(item, "shape") else None)
        return {name: file[name][...] for name in names}


def same(arrays, others):
    assert set(arrays) == set(others)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, others[name], strict=True)


def complete(model):
    return not model.load_report.missing and not model.load_report.unexpected


def test_each_weight_has_its_place_and_goes_back(tmp_path):
    model, arrays = Elmo.from_pretrained(write(tmp_path)), draw(SHAPES)
    assert complete(model) and len(model.load_report.loaded) == len(SHAPES)
    config = model.get_config()
    expected = {
        "vocab_size": None, "units": UNITS, "projection_dim": PROJECTED, "num_layers": 2,
        "skip_connections": True, "cell_clip": 3, "projection_clip": None, "dropout_rate": 0.2,
        "max_characters": 11, "character_dim": 3, "filters": [[1, 2], [2, 3], [3, 8]],
        "num_highway": 1, "activation": "tanh",
    }  # fmt: skip
    assert {name: config[name] for name in expected} == expected
    words, lstm = model.token_embedding, model.encoder_blocks[1].backward.cell
    cell = "RNN_1/RNN/MultiRNNCell/Cell1/LSTMCell/"
    for variable, expected in (
        (words.embeddings, arrays["char_embed"]),
        (words.convolutions[1].kernel, arrays["CNN/W_cnn_1"][0]),
        (words.highways[0].gate.kernel, arrays["CNN_high_0/W_carry"]),
        (words.highways[0].transform.bias, arrays["CNN_high_0/b_transform"]),
        (words.projection.kernel, arrays["CNN_proj/W_proj"]),
        (lstm.kernel, arrays[f"{cell}W_0"][:PROJECTED]),
        (lstm.recurrent_kernel, arrays[f"{cell}W_0"][PROJECTED:]),
        (lstm.bias, arrays[f"{cell}B"]),
        (lstm.projection_kernel, arrays[f"{cell}W_P_0"]),
    ):
        np.testing.assert_array_equal(np.asarray(variable), expected)
    model.save_pretrained(tmp_path / "back")
    same(arrays_of(tmp_path / "back" / "lm_weights.hdf5"), arrays)
    assert json.loads((tmp_path / "back" / "options.json").read_text()) == OPTIONS
    assert complete(Elmo.from_pretrained(tmp_path / "back"))


def test_words_by_a_table(tmp_path):
    shapes = {"embedding": (WORDS, PROJECTED)} | {k: v for k, v in SHAPES.items() if "RNN" in k}
    options = {**changed(char_cnn=None), "n_tokens_vocab": WORDS}
    model = Elmo.from_pretrained(write(tmp_path, draw(shapes), options))
    assert complete(model)
    ids = {name: model.get_config()[name] for name in ("pad_id", "start_id", "end_id")}
    assert ids == {"pad_id": 0, "start_id": 0, "end_id": 1}
    model._config = {**model.get_config(), "end_id": 3}
    model.save_pretrained(tmp_path / "back")
    same(arrays_of(tmp_path / "back" / "lm_weights.hdf5"), draw(shapes))
    written = json.loads((tmp_path / "back" / "options.json").read_text())
    assert "char_cnn" not in written and written["n_tokens_vocab"] == WORDS
    assert Elmo.from_pretrained(tmp_path / "back").get_config()["end_id"] == 3
    with pytest.raises(ValueError, match=r"'embedding' has the shape \(19, 5\)"):
        Elmo.from_pretrained(write(tmp_path, draw(shapes), {**options, "n_tokens_vocab": 19}))
    with pytest.raises(ValueError, match="one `n_tokens_vocab` .* Received: 17 and 19"):
        LanguageModel(model, 19).save_pretrained(tmp_path)


def test_a_softmax_that_is_there_or_not(tmp_path):
    model = LanguageModel.from_pretrained(write(tmp_path, draw({**SHAPES, **SOFTMAX})))
    assert complete(model)
    model.save_pretrained(tmp_path / "back")
    same(arrays_of(tmp_path / "back" / "lm_weights.hdf5"), draw({**SHAPES, **SOFTMAX}))
    written = json.loads((tmp_path / "back" / "options.json").read_text())
    assert written == {**OPTIONS, "n_tokens_vocab": WORDS}
    assert complete(LanguageModel.from_pretrained(tmp_path / "back"))
    alone = Elmo.from_pretrained(tmp_path / "back")
    assert alone.load_report.unexpected == tuple(sorted(SOFTMAX))
    with pytest.raises(ValueError, match="no softmax .*Received: None.*vocab_size=..."):
        LanguageModel.from_pretrained(write(tmp_path))
    model = LanguageModel.from_pretrained(
        write(tmp_path, options={**OPTIONS, "n_tokens_vocab": 19})
    )
    assert model.load_report.missing == tuple(SOFTMAX) and not model.load_report.unexpected
    assert model.softmax.kernel.shape == (PROJECTED, 19)


def test_names_of_published_files(tmp_path):
    write(tmp_path, draw({**SHAPES, "CNN/strange": (3,)}))
    (tmp_path / "options.json").rename(tmp_path / "elmo_2x4096_options.json")
    (tmp_path / "lm_weights.hdf5").rename(tmp_path / "elmo_2x4096_weights.hdf5")
    report = Elmo.from_pretrained(tmp_path).load_report
    assert report.unexpected == ("CNN/strange",) and not report.missing
    (tmp_path / "other_options.json").write_text("{}")
    with pytest.raises(ValueError, match="several .*'elmo_2x4096_options.json', 'other_opt"):
        Elmo.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"No config.json or"):
        checkpoints.open_pretrained(tmp_path, family="bert")


def test_no_highways_and_no_projection(tmp_path):
    shapes = {name: s for name, s in SHAPES.items() if "high" not in name and "proj" not in name}
    options = changed(**{"char_cnn.n_highway": None, "char_cnn.filters": [[1, 2], [2, 3]]})
    del shapes["CNN/W_cnn_2"], shapes["CNN/b_cnn_2"]  # 5 outputs are left, those of a projection
    model = Elmo.from_pretrained(write(tmp_path, draw(shapes), options))
    assert complete(model)
    arrays = {**draw(shapes), "CNN_proj/b_proj": np.ones(PROJECTED, "float32")}
    with pytest.raises(ValueError, match="By the configuration there is no 'CNN_proj/b_proj'"):
        Elmo.from_pretrained(write(tmp_path, arrays, options))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"lstm.dim": None}, "Expected `lstm.dim` in the configuration"),
        ({"lstm.projection_dim": None}, "Expected `lstm.projection_dim`"),
        ({"char_cnn.filters": None}, "Expected `char_cnn.filters`"),
        ({"char_cnn.activation": None}, "Expected `char_cnn.activation`"),
        ({"char_cnn": None}, "Expected `char_cnn.embedding.dim`"),
        ({"char_cnn.activation": "gelu"}, "one of relu, tanh"),
        ({"char_cnn.filters": [[1, 2], [2]]}, r"pairs \[width, count\]"),
        ({"char_cnn.filters": [[1, 2.5]]}, r"pairs \[width, count\]"),
        ({"char_cnn.filters": []}, r"pairs \[width, count\]"),
        ({"char_cnn.filters": 3}, "Expected: list"),
        ({"char_cnn.max_characters_per_token": 10**9}, "is 1000000000. Expected: from 1 to 4096"),
        ({"char_cnn.n_characters": 60}, "`char_cnn.n_characters` 261 or 262. Received"),
        ({"lstm.cell_clip": 0}, "`lstm.cell_clip` .* is 0. Expected: finite and above 0"),
        ({"lstm.proj_clip": float("nan")}, "finite and above 0"),
        ({"lstm.use_skip_connections": 1}, "Expected: bool"),
        ({"bidirectional": False}, "`bidirectional` True. Received"),
        ({"share_embedding_softmax": True}, "`share_embedding_softmax` False"),
        ({"lstm.peepholes": True}, r"options that the ELMo here .*\['lstm.peepholes'\]"),
        ({"char_cnn": {}}, r"options that the ELMo here .*\['char_cnn'\]"),
        ({"lstm": 5}, r"options that the ELMo here .*\['lstm'\]"),
        ({"lstm.n_layers": 3}, r"names 3 blocks \(RNN_0/.*/Cell0 .*Received: weights of 2"),
        ({"lstm.n_layers": None}, "names 1 blocks"),
        ({"lstm.n_layers": 10**30}, "names 10+ blocks"),
        ({"char_cnn.n_highway": 2}, r"names 2 blocks \(CNN_high_0"),
        ({"char_cnn.n_highway": None}, r"names 0 blocks \(CNN_high_0"),
        ({"char_cnn.filters": [[1, 2], [2, 3]]}, r"names 2 blocks \(CNN/W_cnn_0"),
        ({"char_cnn.filters": [[1, 2], [2, 3], [4, 8]]}, r"W_cnn_2' has the shape \(4, 3, 8\)"),
        ({"char_cnn.filters": [[1, 2], [2, 3], [3, 11]]}, r"W_cnn_2' has the shape \(3, 3, 11\)"),
        ({"lstm.projection_dim": 3}, r"CNN_proj/W_proj' has the shape \(13, 3\)"),
        ({"lstm.dim": 11}, r"W_0' has the shape \(10, 44\)"),
    ],
)
def test_options_that_do_not_fit(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        Elmo.from_pretrained(write(tmp_path, options=changed(**options)))


def test_an_option_with_a_dot(tmp_path):
    with pytest.raises(ValueError, match="Expected options in options. Received: 'lstm.dim'"):
        Elmo.from_pretrained(write(tmp_path, options={**OPTIONS, "lstm.dim": 11}))


def test_options_that_training_alone_reads(tmp_path):
    training = {"bidirectional": True, "batch_size": 128, "n_epochs": 10, "unroll_steps": 20}
    training |= {"char_cnn.n_characters": 261, "n_tokens_vocab": 793471, "lstm.proj_clip": None}
    assert complete(Elmo.from_pretrained(write(tmp_path, options=changed(**training))))


CELL = "RNN_0/RNN/MultiRNNCell/Cell1/LSTMCell"


@pytest.mark.parametrize("name", ["char_embed", "CNN/b_cnn_2", "CNN_proj/b_proj", f"{CELL}/W_P_0"])
def test_a_weight_that_is_not_there(name, tmp_path):
    arrays = draw(SHAPES)
    del arrays[name]
    with pytest.raises(ValueError, match=f"1 weights of the encoder are not .*: {name}"):
        Elmo.from_pretrained(write(tmp_path, arrays))


@pytest.mark.parametrize(
    "name, shape",
    [
        ("char_embed", (262, 3)),
        ("CNN/W_cnn_1", (1, 3, 2, 3)),
        ("CNN_high_0/b_carry", (1, 13)),
        (f"{CELL}/W_0", (4 * UNITS, 2 * PROJECTED)),
        ("softmax/W", (PROJECTED, WORDS)),
        ("softmax/W", (10**12, 0)),
        ("softmax/W", ()),
        ("softmax/b", (WORDS + 2,)),
    ],
)
def test_a_weight_of_another_shape(name, shape, tmp_path):
    write(tmp_path, draw({**SHAPES, **SOFTMAX, name: shape}))
    with pytest.raises(ValueError, match=rf"'{name}' (has the shape|must have|must fit)"):
        LanguageModel.from_pretrained(tmp_path)


def test_a_truncated_file(tmp_path):
    path = write(tmp_path) / "lm_weights.hdf5"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match="lm_weights.hdf5 cannot be read: not a whole HDF5 file"):
        Elmo.from_pretrained(tmp_path)


def test_what_bilm_has_no_form_for(tmp_path):
    model = Elmo.from_pretrained(write(tmp_path))
    head = LanguageModel(model, WORDS)
    vars(head)["softmax"] = None  # as a model of another kind
    with pytest.raises(ValueError, match="only for an ELMo and for its language model"):
        head.save_pretrained(tmp_path / "back")
    config = model.get_config()
    model._config = {**config, "activation": "gelu"}
    with pytest.raises(
        ValueError, match="no published `char_cnn.activation` for activation='gelu'"
    ):
        model.save_pretrained(tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_checkpoint_of_training(tmp_path):
    import tensorflow as tf

    arrays, replaced = (
        draw({**SHAPES, **SOFTMAX}),
        {"RNN/": "rnn/", "MultiRNNCell": "multi_rnn_cell"},
    )
    replaced |= {"/Cell": "/cell_", "LSTMCell": "lstm_cell", "W_P_0": "projection/kernel"}
    replaced |= {"W_0": "kernel"}
    variables = {"global_step": np.int64(3), "train_perplexity": np.float32(3)}
    for name, array in arrays.items():
        for ours, theirs in replaced.items() if name.startswith("RNN") else ():
            name = name.replace(ours, theirs)
        if name.endswith("/B"):
            name = f"{name[:-1]}bias"
        variables[f"lm/{name}"], variables[f"lm/{name}/Adagrad"] = array, array
    assert "lm/RNN_1/rnn/multi_rnn_cell/cell_0/lstm_cell/projection/kernel" in variables
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "model.ckpt-3"),
        tensor_names=list(variables),
        shape_and_slices=[""] * len(variables),
        tensors=list(variables.values()),
    )
    (tmp_path / "options.json").write_text(json.dumps(OPTIONS))
    model = LanguageModel.from_pretrained(tmp_path)
    assert complete(model)
    model.save_pretrained(tmp_path / "back")
    same(arrays_of(tmp_path / "back" / "lm_weights.hdf5"), arrays)


def test_its_vectors_are_those_of_the_file_with_a_state_carried_over(tmp_path):
    arrays = {name: array / 2 for name, array in draw(SHAPES).items()}
    model = Elmo.from_pretrained(write(tmp_path, arrays))
    words = [["the", "다리", "ends"], ["a"]]
    packer = text.WordPacker(5, max_characters=11, split="whitespace")
    state, before = None, [[[np.zeros(PROJECTED), np.zeros(UNITS)] for _ in "01"] for _ in "fb"]
    for row in words:
        layers, state = model.encode(packer(tf.constant([" ".join(row)])), state)
        expected = bilm(arrays, row, before)
        for one, other in zip(layers, expected, strict=True):
            np.testing.assert_allclose(one[0], other, rtol=1e-4, atol=1e-5)


def bilm(arrays, words, states):
    """The layers of a sentence, from the file's arrays; `states` become those behind it."""
    ids = [word.encode()[:9] for word in words]
    ids = [[259, *(b + 1 for b in word), 260] + [261] * (9 - len(word)) for word in ids]
    marks = [[259, mark, 260] + [261] * 8 for mark in (257, 258)]
    x = oracles.character_cnn(
        np.array([marks[0], *ids, marks[1]])[None], arrays["char_embed"],
        [(arrays[f"CNN/W_cnn_{i}"][0], arrays[f"CNN/b_cnn_{i}"]) for i in range(3)],
        [[arrays[f"CNN_high_0/{v}_{part}"] for part in ("transform", "carry") for v in "Wb"]],
        (arrays["CNN_proj/W_proj"], arrays["CNN_proj/b_proj"]), "tanh",
    )[0]  # fmt: skip
    found = [[x, x]]
    for i in range(2):
        both = []
        for direction, x in enumerate(found[-1]):
            cell = f"RNN_{direction}/RNN/MultiRNNCell/Cell{i}/LSTMCell/"
            kernel, recurrent = np.split(arrays[f"{cell}W_0"], 2)
            weights = {"kernel": kernel, "recurrent_kernel": recurrent, "bias": arrays[f"{cell}B"]}
            weights["projection_kernel"] = arrays[f"{cell}W_P_0"]
            h, c = states[direction][i]
            y, h, c = oracles.projected_lstm(
                x[None], weights, h[None], c[None], cell_clip=3, backwards=direction == 1
            )
            states[direction][i] = [h[0], c[0]]
            both.append(y[0] + x if i else y[0])
        found.append(both)
    return [np.concatenate(both, -1)[1:-1] for both in found]
