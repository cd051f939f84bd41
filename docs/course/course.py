"""The code of the course, one cell for each question. `build.py` puts it into pages and notebooks.

Run it in this folder: `python course.py`.
"""

# %% [setup]
import pathlib

import keras
import numpy as np
from keras import ops
from matplotlib.figure import Figure

from keras_xfmr import functional, layers, models, training

keras.utils.set_random_seed(1)
PAD, START, END = 0, 1, 2  # ids 3 .. 12 are ten numbers
VOCABULARY = 13


def make_pairs(rows, seed, length=6):
    """Rows of numbers, and the same numbers sorted, between a start and an end token."""
    source = np.random.default_rng(seed).integers(3, VOCABULARY, (rows, length))
    target = np.pad(np.sort(source), ((0, 0), (1, 1)), constant_values=((0, 0), (START, END)))
    return source, target


pairs = make_pairs(10_000, seed=0)


def fit(model, inputs, labels, epochs, rate=2e-3, pad_id=PAD):
    """Trains a model, and returns the history: a list of numbers, one an epoch, for each name."""
    loss = training.MaskedCrossEntropy(pad_id=pad_id)
    metric = training.MaskedAccuracy(pad_id=pad_id)
    model.compile(training.AdamW(rate), loss, metrics=[metric])
    return model.fit(inputs, labels, batch_size=128, epochs=epochs, verbose=0).history


def fit_pairs(model, pairs, epochs):
    """Teacher forcing: the decoder reads a target without its end, the labels have no start."""
    source, target = pairs
    return fit(model, {"source_ids": source, "target_ids": target[:, :-1]}, target[:, 1:], epochs)


def generate(model, source, steps=7, behind=PAD):
    """Greedy decoding with the whole decoder at every step, from `<sos> <pad> <pad> ...`."""
    target = np.full((len(source), steps + 1), behind)
    target[:, 0] = START
    for t in range(steps):
        logits = model({"source_ids": source, "target_ids": target})
        target[:, t + 1] = ops.argmax(logits[:, t], axis=-1)
    return target[:, 1:]


def draw(name, panels, labels=("", ""), ticks=None):
    """Draws matrices side by side, or curves on one axis, and saves a picture.

    `panels` is a dictionary: title -> matrix, or label -> list of numbers. `ticks` names the
    columns and rows of the matrices.
    """
    values = [np.asarray(value) for value in panels.values()]
    matrices = values[0].ndim == 2
    size = (3 * len(panels) + 0.5, 3) if matrices else (5, 3)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(panels) if matrices else 1, squeeze=False)[0]
    for axis in axes:
        axis.set(xlabel=labels[0], ylabel=labels[1])
    if matrices:
        scale = {"vmin": min(map(np.min, values)), "vmax": max(map(np.max, values))}
        for axis, title, value in zip(axes, panels, values):
            image = axis.imshow(value, aspect="auto", **scale)
            axis.set_title(title, fontsize=10)
            if ticks is not None:
                axis.set_xticks(range(len(ticks[0])), ticks[0])
                axis.set_yticks(range(len(ticks[1])), ticks[1])
        figure.colorbar(image, ax=axes)
    else:
        for label, value in zip(panels, values):
            axes[0].plot(range(1, len(value) + 1), value, marker="o", markersize=3, label=label)
        axes[0].legend()
    pathlib.Path("pictures").mkdir(exist_ok=True)
    figure.savefig(f"pictures/{name}.png", dpi=90)
    if "get_ipython" in globals():  # in a notebook
        from IPython.display import Image, display

        display(Image(f"pictures/{name}.png"))


# %% [1]
model = models.Transformer(100, 100, d_model=512, num_heads=8, ffn_dim=64, num_layers=1)
embedding = model.source_embedding
table = ops.convert_to_numpy(embedding.embeddings)
print("table:", table.shape, "learned:", embedding.embeddings.trainable)

word = 7
vector = ops.convert_to_numpy(embedding(np.array([word])))[0]
one_hot = np.eye(100)[word]
print("the vector of word 7:", vector.shape, vector[:4].round(3), "...")
assert np.allclose(vector, table[word] * np.sqrt(512))  # row 7, scaled as in the paper
assert np.allclose(one_hot @ table, table[word], atol=1e-6)  # a look-up is a product with a one-hot

# A step changes the rows of the words that it read. (A table that also gives the output, as the
# target's does here, changes in all rows: the softmax reads them.)
tables = [embedding.embeddings, model.target_embedding.embeddings]


def rows_changed_by_a_step(words):
    """Trains for one step; returns the rows that change in the table of the source and target."""
    before = [ops.convert_to_numpy(one) for one in tables]
    inputs = {"source_ids": np.array([words]), "target_ids": np.array([[1, 5]])}
    model.train_on_batch(inputs, np.array([[5, 2]]))
    changes = [ops.convert_to_numpy(one) - old for one, old in zip(tables, before)]
    return [np.flatnonzero(change.any(axis=1)).tolist() for change in changes]


model.compile(keras.optimizers.SGD(0.1), training.MaskedCrossEntropy())
read, also_output = rows_changed_by_a_step([7, 11, 42])
print("gradient descent changes rows", read, "of the source,", len(also_output), "of the target")
assert read == [7, 11, 42] and len(also_output) == 100

# Other optimizers change more rows: Adam those that earlier steps read, AdamW all of them.
model.compile(keras.optimizers.Adam(0.001), training.MaskedCrossEntropy())
first, second = (rows_changed_by_a_step(words)[0] for words in ([7, 11, 42], [3]))
print("Adam, which reads 7, 11, 42 and then 3:", first, "and then", second)
assert first == [7, 11, 42] and second == [3, 7, 11, 42]
model.compile(training.AdamW(0.001), training.MaskedCrossEntropy())
every, _ = rows_changed_by_a_step([7, 11, 42])
print("AdamW, which reads 7, 11, 42:", len(every), "rows of the source")
assert len(every) == 100

# %% [2]
sorter = models.Transformer(
    VOCABULARY, d_model=64, num_heads=4, ffn_dim=128, num_layers=1, dropout_rate=0.0,
    start_id=START, end_id=END,
)  # fmt: skip
attention = sorter.encoder_blocks[0].self_attention
projections = {
    "W_Q": attention.query_dense, "W_K": attention.key_dense,
    "W_V": attention.value_dense, "W_O": attention.output_dense,
}  # fmt: skip


def kernels():
    return {name: ops.convert_to_numpy(dense.kernel) for name, dense in projections.items()}


# A step of plain gradient descent with the rate 1 subtracts the gradient itself.
before, source, target = kernels(), pairs[0][:128], pairs[1][:128]
sorter.compile(keras.optimizers.SGD(1.0), training.MaskedCrossEntropy())
inputs = {"source_ids": source, "target_ids": target[:, :-1]}
first_weights = sorter.get_weights()
sorter.train_on_batch(inputs, target[:, 1:])
gradients = {name: before[name] - after for name, after in kernels().items()}
sorter.set_weights(first_weights)

row, answer = pairs[0][:1], pairs[1][:1, :-1]
untrained = sorter.attention_weights(row, answer)["cross"][0][0].numpy().mean(axis=0)
history = fit_pairs(sorter, pairs, epochs=6)
trained = sorter.attention_weights(row, answer)["cross"][0][0].numpy().mean(axis=0)

for name, after in kernels().items():
    gradient, change = np.linalg.norm(gradients[name]), np.linalg.norm(after - before[name])
    print(f"{name} {after.shape}: first gradient {gradient:.2f}, change by training {change:.2f}")
    assert gradient > 0 and change > 0.1 * np.linalg.norm(before[name])
print("loss:", np.round(history["loss"], 3).tolist())

# Where 200 new rows look before they write a number: the place with the largest weight.
new_source, new_target = make_pairs(200, seed=9)
weights = sorter.attention_weights(new_source, new_target[:, :-1])["cross"][0].numpy()
looked_at = np.take_along_axis(new_source, weights.mean(axis=1)[:, :6].argmax(axis=-1), axis=1)
share = np.mean(looked_at == new_target[:, 1:7])
print(f"largest weight on the number to be written next: {share:.0%} of 1200")
print(f"largest weight in the picture: before {untrained.max():.2f}, after {trained.max():.2f}")
assert share > 0.6 and untrained.max() < 0.4 < trained.max()
draw(
    "02_cross_attention", {"before": untrained, "after": trained},
    ("source", "the decoder reads"), (row[0], ["<sos>", *answer[0, 1:]]),
)  # fmt: skip

# %% [3]
source, target = make_pairs(1, seed=5)
other = target.copy()
other[0, 5:] = [12, 12, END]  # another future
one, two = (
    ops.convert_to_numpy(sorter({"source_ids": source, "target_ids": ids}))[0]
    for ids in (target, other)
)
change = np.abs(one - two).max(axis=1)
print("change of the logits at each position:", change.round(2))
assert change[:5].max() < 1e-3 < 0.1 < change[5:].min()

# In inference the newest position sees all that is there: its row of the mask hides nothing ...
mask = ops.convert_to_numpy(functional.look_ahead_mask(4))[0]
print(mask.astype(int))
assert mask[-1].all() and not mask[:-1].all(axis=1).any()

# ... but the earlier positions would see the newest one, and a second block reads them.
x = keras.random.normal((1, 4, 16), seed=3)
for depth in (1, 2):
    stack = [layers.EncoderBlock(2, 32, dropout_rate=0.0) for _ in range(depth)]
    masked, free = x, x
    for block in stack:
        masked, free = block(masked, use_causal_mask=True), block(free)
    difference = float(ops.max(ops.abs(masked[:, -1] - free[:, -1])))
    print(f"{depth} block(s): without the mask the newest position changes by {difference:.4f}")
    assert difference < 1e-5 if depth == 1 else difference > 1e-3

# %% [4]
def small_transformer(encoder_blocks, decoder_blocks, d_model=64):
    """The same model as before, from layers, so that we can replace a part of it."""
    source = keras.Input([None], dtype="int32", name="source_ids")
    target = keras.Input([None], dtype="int32", name="target_ids")
    embedding, positions = layers.TokenEmbedding(VOCABULARY, d_model), layers.PositionalEncoding()
    memory, x = positions(embedding(source)), positions(embedding(target))
    for block in encoder_blocks:
        memory = block(memory)
    for block in decoder_blocks:
        x = block(x, memory)
    return keras.Model({"source_ids": source, "target_ids": target}, embedding(x, reverse=True))


class SeesTheAnswer(layers.MultiHeadAttention):
    """Attention that takes no notice of the look-ahead mask."""

    def compute_mask_for_scores(self, *args, **kwargs):
        return super().compute_mask_for_scores(*args, **{**kwargs, "use_causal_mask": False})


test_source, test_target = make_pairs(200, seed=9)
rows_right = {}
for name, attention in (("with the mask", None), ("without", SeesTheAnswer(4, 16))):
    decoder = layers.DecoderBlock(4, 128, dropout_rate=0.0, self_attention=attention)
    model = small_transformer([layers.EncoderBlock(4, 128, dropout_rate=0.0)], [decoder])
    history = fit_pairs(model, pairs, epochs=6)
    accuracy, loss = history["accuracy"][-1], history["loss"][-1]
    rows_right[name] = np.mean((generate(model, test_source) == test_target[:, 1:]).all(axis=1))
    print(f"{name}: in training {accuracy:.1%} of the tokens right, loss {loss:.3f}")
    print(f"    rows that it then generates right: {rows_right[name]:.0%}")
    assert accuracy > 0.95
assert rows_right["with the mask"] > 0.7 and rows_right["without"] < 0.3

# %% [5]
scores = keras.random.normal((1, 4, 1, 4), seed=2)  # of 4 positions, as queries with the keys below
mask = functional.look_ahead_mask(4)
logits = ops.convert_to_numpy(scores)[0, :, 0]
allowed = ops.convert_to_numpy(mask)[0]


def softmax(x):
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def masked_before(logits):
    return softmax(np.where(allowed, logits, -1e9))


def masked_after(logits):
    return np.where(allowed, softmax(logits), 0)


for name, weights in (("before", masked_before(logits)), ("after", masked_after(logits))):
    print(f"masked {name} the softmax:")
    print(weights.round(2), "rows sum to", weights.sum(axis=1).round(2))
assert np.allclose(masked_before(logits).sum(axis=1), 1)
assert (masked_after(logits).sum(axis=1)[:-1] < 0.99).all()

# The library masks before: keys that are the unit vectors give these very scores.
keys = np.eye(4, dtype="float32")[None, :, None]
_, weights = functional.scaled_dot_product_attention(
    scores, keys, keys, mask=mask, scale=1.0, return_weights=True
)
assert np.allclose(ops.convert_to_numpy(weights)[0, 0], masked_before(logits), atol=1e-6)

# Another score of the hidden future: the weights of row 0 must not move.
moved = logits.copy()
moved[0, 3] += 2
for name, masked in (("before", masked_before), ("after", masked_after)):
    change = np.abs(masked(moved) - masked(logits))[0].max()
    print(f"masked {name}: another hidden score changes the weights of row 0 by {change:.2f}")
    assert change < 1e-6 if name == "before" else change > 0.01

# %% [6]
def of_the_future(weights):
    """How much of the attention goes to later positions, on average over heads and rows."""
    return float(np.triu(ops.convert_to_numpy(weights).mean(axis=(0, 1)), k=1).sum(axis=1).mean())


source, target = make_pairs(1, seed=5)
weights = sorter.attention_weights(source, target[:, :-1])
ids = np.array([[5, 9, 4, 7, 3, 8, 6]])
bert = models.Bert(VOCABULARY, d_model=32, num_heads=2, ffn_dim=64, num_layers=1)
gpt = models.Gpt(VOCABULARY, d_model=32, num_heads=2, ffn_dim=64, num_layers=1)
shares = {
    "encoder of the Transformer": of_the_future(weights["encoder"][0]),
    "decoder of the Transformer": of_the_future(weights["decoder"][0]),
    "Bert (an encoder)": of_the_future(bert.attention_weights(ids)[0]),
    "Gpt (a decoder)": of_the_future(gpt.attention_weights(ids)[0]),
}
for name, share in shares.items():
    print(f"{name}: {share:.0%} of the attention goes to the future")
    assert (share == 0) == ("decoder" in name)

padded = np.pad(source, ((0, 0), (0, 2)), constant_values=PAD)
padding = sorter.attention_weights(padded, target[:, :-1])["encoder"][0][..., 6:]
print(f"encoder of the Transformer: {float(ops.max(padding)):.0%} goes to padding")
assert float(ops.max(padding)) == 0
means = {kind: ops.convert_to_numpy(one[0])[0].mean(axis=0) for kind, one in weights.items()}
draw("06_three_attentions", means, ("key", "query"))

# %% [7]
source, target = make_pairs(3, seed=5)
ids = np.full((1, 8), PAD)
ids[:, 0] = START
for t in range(7):
    print("the decoder reads", ids[0, :-1].tolist())
    logits = sorter({"source_ids": source[:1], "target_ids": ids[:, :-1]})
    ids[:, t + 1] = ops.argmax(logits[:, t], axis=-1)
print("result           ", ids[0, 1:].tolist())

cached = sorter.generate(source, max_length=7, jit_compile=False)["token_ids"]
assert np.array_equal(ids[0, 1:], cached[0])
assert np.array_equal(generate(sorter, source), cached)
# What stands behind is hidden by the look-ahead mask, so that it need not be padding.
assert np.array_equal(generate(sorter, source, behind=12), cached)
print("cached decoding  ", cached[0].tolist())

# %% [8]
class CountingBlock(layers.DecoderBlock):
    """Notes each call."""

    calls = []

    def call(self, inputs, memory, **kwargs):
        self.calls.append(self.name)
        return super().call(inputs, memory, **kwargs)


blocks = [CountingBlock(4, 128, name=f"layer_{i}") for i in range(3)]
model = small_transformer([layers.EncoderBlock(4, 128)], blocks)
CountingBlock.calls.clear()  # building the model called them too
generate(model, source[:1], steps=7)
for t in range(7):
    print(f"step {t}:", CountingBlock.calls[3 * t : 3 * t + 3])
assert CountingBlock.calls == ["layer_0", "layer_1", "layer_2"] * 7

gpt = models.Gpt(VOCABULARY, d_model=32, num_heads=2, ffn_dim=64, num_layers=3)
states = gpt.hidden_states(np.array([[5, 9, 4, 7]]))
states = np.stack([ops.convert_to_numpy(x)[0] for x in states])
print("vectors [layers + 1, words, d_model]:", states.shape)
moves = np.linalg.norm(np.diff(states, axis=0), axis=-1)
print("how far each layer (row) moves each word (column):")
print(moves.round(2))
assert moves.min() > 0
last = ops.convert_to_numpy(gpt.decoder_blocks[2](states[2][None], use_causal_mask=True))
assert np.linalg.norm(last[0] - states[2], axis=-1).max() < 1  # without the final norm
assert np.allclose(gpt.final_norm(last)[0], states[3], atol=1e-4)

# %% [9]
points = np.random.default_rng(0).uniform(-1, 1, (10_000, 4, 2))  # 4 points of a plane in a row
squares = np.floor((points + 1) * 2).sum(axis=-1) % 2  # a board of 4 x 4 black and white squares
edge = np.linspace(-0.99, 0.99, 40)
board = np.stack(np.meshgrid(edge, edge), axis=-1).reshape(-1, 1, 2)
pictures, accuracies, counts = {}, {}, {}
for name, feed_forward in (("with FFN", None), ("without FFN", keras.layers.Identity())):
    block = layers.EncoderBlock(4, 256, dropout_rate=0.0, feed_forward=feed_forward)
    x = keras.Input([None, 2])
    model = keras.Model(x, keras.layers.Dense(2)(block(keras.layers.Dense(64)(x))))
    accuracies[name] = fit(model, points, squares, epochs=6, rate=3e-3, pad_id=-1)["accuracy"][-1]
    counts[name] = block.count_params()
    print(f"{name}: {counts[name]} weights in the block, accuracy {accuracies[name]:.0%}")
    white = ops.softmax(model.predict(board, batch_size=1600, verbose=0))[:, 0, 1]
    pictures[name] = ops.convert_to_numpy(white).reshape(40, 40)
draw("09_feed_forward", pictures, ("x", "y"))
assert accuracies["with FFN"] > 0.8 and accuracies["without FFN"] < 0.7
assert counts["without FFN"] < counts["with FFN"] / 2  # most of the weights are the network's

# The network reads each position alone: one by one gives the same.
feed_forward = layers.PositionWiseFFN(256)
x = keras.random.normal((1, 4, 64), seed=1)
one_by_one = ops.concatenate([feed_forward(x[:, t : t + 1]) for t in range(4)], axis=1)
assert np.allclose(feed_forward(x), one_by_one, atol=1e-5)

# %% [10]
generator = np.random.default_rng(0)


def make_sentences(count):
    """3 words of one of two topics, then a good or a bad word; the two labels."""
    topic, mood = generator.integers(2, size=(2, count))
    words = generator.choice(40, (count, 4))  # 40 words of each kind: ids 0-39, 40-79, 80-119, ...
    words[:, :3] += 40 * topic[:, None]
    words[:, 3] += 80 + 40 * mood
    return words, {"topic": topic, "mood": mood}


sentences, labels = make_sentences(10_000)
test_sentences, test_labels = make_sentences(1000)

# Vectors from the sentences alone: which words occur together, as word2vec and GloVe learn it.
bags = np.eye(160)[sentences].sum(axis=1)
together = bags.T @ bags - np.diag(bags.sum(axis=0))
frequency = together.sum(axis=0)
surprise = np.log(np.maximum(together * together.sum() / np.outer(frequency, frequency), 1))
left, strength, _ = np.linalg.svd(surprise)
vectors = left[:, :4] * np.sqrt(strength[:4])


def accuracy(task, count, pretrained, frozen):
    embedding = layers.TokenEmbedding(160, 4, trainable=not frozen)
    ids = keras.Input([4], dtype="int32")
    x = layers.EncoderBlock(2, 16, dropout_rate=0.0)(embedding(ids))
    model = keras.Model(ids, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling1D()(x)))
    if pretrained:
        embedding.set_weights([vectors / vectors.std() / 2])  # the size of a new table's numbers
    epochs = 40 if count < 100 else 4
    fit(model, sentences[:count], labels[task][:count], epochs, rate=1e-2, pad_id=-1)
    return model.evaluate(test_sentences, test_labels[task], verbose=0)[1]


print(f"words of topics in the first 10 sentences: {len(np.unique(sentences[:10, :3]))} of 80")
ways = {"scratch": (False, False), "frozen": (True, True), "pretrained, trained on": (True, False)}
results = {}
for task, count in (("topic", 10), ("mood", 10_000)):
    results[task] = {name: accuracy(task, count, *way) for name, way in ways.items()}
    print(f"{task}, {count} sentences:", {name: f"{x:.0%}" for name, x in results[task].items()})
topic, mood = results.values()
assert topic["frozen"] > topic["scratch"] + 0.1  # few labels: the pretrained vectors win
assert mood["scratch"] > mood["frozen"] + 0.1  # good and bad words have the same neighbours
assert min(topic["pretrained, trained on"], mood["pretrained, trained on"]) > 0.85

# %% [11]
x = keras.random.normal((1, 10, 256), seed=1)
computed, learned = layers.PositionalEncoding(), layers.PositionEmbedding(10)
for name, layer in (("computed", computed), ("learned", learned)):
    codes = ops.convert_to_numpy(layer(x) - x)[0]
    print(f"{name}: {codes.shape}, {layer.count_params()} weights, output {tuple(layer(x).shape)}")
    assert codes.shape == (10, 256)
sinusoids = ops.convert_to_numpy(functional.sinusoidal_encoding(10, 256))
assert np.allclose(layers.PositionalEncoding()(x) - x, sinusoids, atol=1e-5)
assert computed.count_params() == 0 and learned.count_params() == 10 * 256
eleven = keras.random.normal((1, 11, 256), seed=1)
print("11 positions, computed:", tuple(computed(eleven).shape))
try:
    learned(eleven)
except ValueError as error:
    assert "max_length=10 rows" in str(error)
    print("11 positions, learned: refused, the table has ten rows")
else:
    raise AssertionError("a position without a row")

# The task: a row backwards. Without positions a block cannot know what stood where.
learned = layers.PositionEmbedding(
    10, embeddings_initializer=keras.initializers.RandomNormal(stddev=0.5)
)  # as large as the sinusoids
rows = np.random.default_rng(0).integers(3, VOCABULARY, (5000, 10))
for name, positions in (("computed", computed), ("learned", learned), ("none", None)):
    ids = keras.Input([None], dtype="int32")
    x = layers.TokenEmbedding(VOCABULARY, 256)(ids)
    x = x if positions is None else positions(x)
    x = layers.EncoderBlock(4, 256, dropout_rate=0.0)(x)
    model = keras.Model(ids, keras.layers.Dense(VOCABULARY)(x))
    accuracy = fit(model, rows, rows[:, ::-1], epochs=5, rate=1e-3)["accuracy"][-1]
    print(f"{name}: {accuracy:.0%} of the tokens right")
    assert accuracy > 0.9 if positions else accuracy < 0.5
codes = {"computed": sinusoids, "learned": ops.convert_to_numpy(learned.embeddings)}
codes = {name: matrix[:, :64] for name, matrix in codes.items()}  # of 256 columns
draw("11_positions", codes, ("column", "position"))

# %% [12]
CLS, SEP, MASK = 1, 2, 3  # ids 4 .. 43: words of 5 topics, 8 each, in a fixed order


def make_documents(count, seed):
    """Two sentences of 5 words: the second goes on where the first ends, or changes the topic."""
    draw_from = np.random.default_rng(seed)
    topic, first, other = draw_from.integers([[5], [8], [4]], size=(3, count))
    follows = draw_from.integers(2, size=count)  # 0 = B follows A, 1 = it does not
    second_topic = (topic + follows * (1 + other)) % 5
    topics = np.repeat(np.stack([topic, second_topic], axis=1), 5, axis=1)
    words = 4 + 8 * topics + (first[:, None] + np.arange(10)) % 8
    ids = np.full((count, 13), SEP)
    ids[:, 0], ids[:, 1:6], ids[:, 7:12] = CLS, words[:, :5], words[:, 5:]
    return ids, follows, topic, first


documents, follows, topics, firsts = make_documents(6000, seed=0)
segments = np.tile([0] * 7 + [1] * 6, (6000, 1))
places = np.tile([1, 2, 3, 4, 5, 7, 8, 9, 10, 11], (6000, 1))  # where words stand
places = np.random.default_rng(1).permuted(places, axis=1)[:, :2]  # two of them to hide
hidden = np.take_along_axis(documents, places, axis=1)
masked = documents.copy()
np.put_along_axis(masked, places, MASK, axis=1)

bert = models.Bert(
    44, d_model=64, num_heads=4, ffn_dim=128, num_layers=2, max_length=13,
    dropout_rate=0.0, attention_dropout_rate=0.0,
)  # fmt: skip
pretrainer = models.BertPretrainer(bert)
pretrainer.compile(
    training.AdamW(2e-3),
    loss={
        "mlm": training.MaskedCrossEntropy(),
        "nsp": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    },
)
inputs = {"token_ids": masked, "segment_ids": segments, "masked_positions": places}
of_topic, of_word = [], []  # after each epoch: guesses in the right topic, and right ones


def note_guesses(epoch, logs):
    some = {name: values[:500] for name, values in inputs.items()}
    guesses = pretrainer.predict(some, batch_size=500, verbose=0)["mlm"].argmax(axis=-1)
    of_topic.append(np.mean((guesses - 4) // 8 == (hidden[:500] - 4) // 8))
    of_word.append(np.mean(guesses == hidden[:500]))


history = pretrainer.fit(
    inputs, {"mlm": hidden, "nsp": follows}, batch_size=120, epochs=12, verbose=0,
    callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=note_guesses)],
).history  # fmt: skip
mlm, nsp, total = (np.array(history[name]) for name in ("mlm_loss", "nsp_loss", "loss"))
print("epoch   MLM +   NSP =  loss   right topic, right word")
for epoch in range(12):
    print(
        f"{epoch + 1:5} {mlm[epoch]:5.3f} + {nsp[epoch]:5.3f} = {total[epoch]:5.3f}"
        f"   {of_topic[epoch]:11.0%}, {of_word[epoch]:10.0%}"
    )
assert np.allclose(mlm + nsp, total, atol=1e-3)
assert mlm[-1] < mlm[0] - 1 and nsp[-1] < nsp[0] / 2
near = np.abs(mlm - np.log(8)).argmin()  # the topic is known, the word is not
assert of_topic[near] > 0.9 and of_word[near] < 0.4
draw("12_losses", {"MLM": mlm, "NSP": nsp, "sum": total}, ("epoch", "loss"))

# %% [13]
def two_tasks():
    """Two heads over one encoder with the pretrained weights: the topic, and the first word."""
    encoder = models.Bert.from_config(bert.get_config())
    encoder.set_weights(bert.get_weights())
    ids = keras.Input([13], dtype="int32")
    pooled = encoder(ids)[1]
    sizes = {"topic": 5, "first": 8}
    return keras.Model(ids, {name: keras.layers.Dense(n)(pooled) for name, n in sizes.items()})


labels = {"topic": topics[:2000], "first": firsts[:2000]}
test_ids, _, *test_labels = make_documents(500, seed=3)


def tune(model, weights):
    """`weights`: how much the loss of each task counts; 0 leaves a task out."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(training.AdamW(1e-3), loss={"topic": loss, "first": loss}, loss_weights=weights)
    model.fit(documents[:2000], labels, batch_size=100, epochs=8, verbose=0)


def accuracies(model):
    logits = model.predict(test_ids, verbose=0)
    return [
        np.mean(logits[name].argmax(axis=-1) == right)
        for name, right in zip(("topic", "first"), test_labels)
    ]


at_once, in_turn = two_tasks(), two_tasks()
tune(at_once, {"topic": 1.0, "first": 1.0})
tune(in_turn, {"topic": 1.0, "first": 0.0})
topic_alone = accuracies(in_turn)
tune(in_turn, {"topic": 0.0, "first": 1.0})
both, forgotten = accuracies(at_once), accuracies(in_turn)
for name, (topic, first) in (
    ("both at once", both), ("topic alone", topic_alone), ("then first word alone", forgotten)
):  # fmt: skip
    print(f"{name:21}: topic {topic:4.0%}, first word {first:4.0%}")
assert min(both) > 0.8 and topic_alone[0] > 0.8
assert forgotten[1] > 0.8 and forgotten[0] < topic_alone[0] - 0.2

# %% [14]
bert = models.Bert(44, d_model=64, num_heads=4, ffn_dim=128, num_layers=1, max_length=13)
ids, segments = documents[:1], np.array([[0] * 7 + [1] * 6])
token = ops.convert_to_numpy(bert.token_embedding(ids))[0]
segment = ops.convert_to_numpy(bert.segment_embedding(segments))[0]
position = ops.convert_to_numpy(bert.position_embedding.embeddings)[:13]
total = token + position + segment
print(f"token {token.shape} + position {position.shape} + segment {segment.shape} = {total.shape}")
wide = np.concatenate([token, position, segment], axis=-1)
print("concatenated:", wide.shape)

# The first block reads this sum, normalized.
first = bert.hidden_states({"token_ids": ids, "segment_ids": segments})[0]
assert np.allclose(bert.embeddings_norm(total[None]), first, atol=1e-5)

# A product with a concatenation is a sum of three products: adding is concatenating, with one
# matrix shared by all three.
W = np.random.default_rng(0).normal(size=(64, 16))
difference = np.abs(wide @ np.concatenate([W, W, W]) - total @ W).max()
print(f"the two products differ by {difference:.0e}")
assert difference < 1e-4

# %% [15]
words = ["[CLS]", "my", "dog", "is", "cute", "[SEP]"]
ids = np.array([[1, 10, 11, 12, 13, 2]])
outputs = bert(ids)
sequence, pooled = (ops.convert_to_numpy(one)[0] for one in outputs)
print("outputs[0]", tuple(outputs[0].shape), " outputs[1]", tuple(outputs[1].shape))
for t, word in enumerate(words):
    print(f"outputs[0][0, {t}] {word:5}", sequence[t, :4].round(2), "...")
print("outputs[1][0]    [CLS]", pooled[:4].round(2), "...")

# outputs[1] is outputs[0][:, 0] through the pooler: a dense layer with tanh.
kernel, bias = bert.pooler.get_weights()
assert np.allclose(pooled, np.tanh(sequence[0] @ kernel + bias), atol=1e-5)

# In its context: another word in the place of "my" changes row 2, that of "dog".
other = ids.copy()
other[0, 1] = 20
assert np.abs(ops.convert_to_numpy(bert(other)[0])[0, 2] - sequence[2]).max() > 1e-3

# Row t belongs to position t: exchange the vectors of two positions that go into a block, and
# their rows change places.
x = ops.convert_to_numpy(keras.random.normal((1, 6, 64), seed=4))
order = [0, 2, 1, 3, 4, 5]
block = bert.encoder_blocks[0]
assert np.allclose(ops.convert_to_numpy(block(x))[:, order], block(x[:, order]), atol=1e-5)

# %% [16]
class NoResidual(layers.EncoderBlock):
    """Norm(sublayer(x)) in the place of Norm(x + sublayer(x))."""

    def residual(self, name, inputs, sublayer, training=None):
        return getattr(self, f"{name}_add_norm").normalize(sublayer(inputs))


def alikeness(x):
    """The mean cosine of two different positions: 1 where all positions are the same vector."""
    x = ops.convert_to_numpy(x)[0]
    x = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return float((x @ x.T)[~np.eye(len(x), dtype=bool)].mean())


curves = {}
for name, kind in (("with residual", layers.EncoderBlock), ("without", NoResidual)):
    x, curves[name] = keras.random.normal((1, 10, 64), seed=1), []
    for _ in range(12):
        x = kind(4, 128)(x)
        curves[name].append(alikeness(x))
    shown = ", ".join(f"{curves[name][depth - 1]:.2f}" for depth in (1, 3, 6, 12))
    print(f"{name}: cosine of two positions after blocks 1, 3, 6 and 12: {shown}")
draw("16_residual", curves, ("block", "cosine of two positions"))
assert curves["without"][2] > 0.98 and curves["with residual"][2] < 0.9

rows = pairs[0][:4000]
learned = {}
for name, kind in (("with residual", layers.EncoderBlock), ("without", NoResidual)):
    ids = keras.Input([6], dtype="int32")
    x = layers.PositionalEncoding()(layers.TokenEmbedding(VOCABULARY, 32)(ids))
    for _ in range(6):
        x = kind(2, 64, dropout_rate=0.0)(x)
    model = keras.Model(ids, keras.layers.Dense(VOCABULARY)(x))
    learned[name] = fit(model, rows, rows, epochs=3)["accuracy"][-1]
    print(f"{name}: 6 blocks learn to repeat a row, {learned[name]:.0%} of the tokens right")
assert learned["with residual"] > 0.9 and learned["without"] < 0.5

# %% [17]
x = keras.random.normal((2, 3, 64), mean=5.0, stddev=4.0, seed=1)
norm = layers.LayerNorm()
y = norm(x)


def moments(x):
    x = ops.convert_to_numpy(x)
    return x.mean(axis=-1).ravel(), x.var(axis=-1).ravel()


for name, tensor in (("before", x), ("after", y)):
    mean, variance = moments(tensor)
    print(f"{name}: mean of each position {np.abs(mean).round(2)}, variance {variance.round(2)}")
assert np.abs(moments(y)[0]).max() < 1e-3 and np.abs(moments(y)[1] - 1).max() < 1e-2
assert np.allclose(norm(x[:, 1:2]), y[:, 1:2], atol=1e-5)  # each position by itself
print("learned:", {weight.name: tuple(weight.shape) for weight in norm.weights})
gamma, beta = norm.get_weights()
assert (gamma == 1).all() and (beta == 0).all()


class NoNorm(layers.EncoderBlock):
    """x + sublayer(x) in the place of Norm(x + sublayer(x))."""

    def residual(self, name, inputs, sublayer, training=None):
        return getattr(self, f"{name}_add_norm").add(inputs, sublayer(inputs))


for name, kind in (("with norms", layers.EncoderBlock), ("without", NoNorm)):
    x, variances = keras.random.normal((1, 10, 64), seed=1), []
    for _ in range(12):
        x = kind(4, 256)(x)
        variances.append(float(ops.var(x)))
    shown = np.round(variances, 1)[[0, 5, 11]].tolist()
    print(f"{name}: variance after blocks 1, 6 and 12:", shown)
    assert abs(variances[-1] - 1) < 0.01 if name == "with norms" else variances[-1] > 10
