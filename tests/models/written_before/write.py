"""Wrote files.zip, with the code of version 0.1.0: `python write.py FOLDER`.

Each model was trained for two steps, so that its optimizer's file has values, and answered; the
answers are in answers.npz.
"""

import pathlib
import sys

import keras
import numpy as np

from keras_xfmr import models, training

SIZES = dict(d_model=4, num_heads=2, ffn_dim=5, num_layers=1)
IDS = np.array([[2, 5, 7, 3], [2, 6, 3, 0]], "int32")
TARGETS = np.array([[2, 5, 1], [2, 4, 0]], "int32")


def classes(model):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True), np.array([1, 0])


def cases():
    """name -> (model, inputs, loss, labels)."""
    entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    pairs = {"source_ids": IDS, "target_ids": TARGETS}
    yield (
        "transformer",
        models.Transformer(11, norm_first=True, dropout_rate=0.0, **SIZES),
        pairs,
        training.MaskedCrossEntropy(),
        TARGETS,
    )
    yield (
        "transformer_of_two_tables",
        models.Transformer(11, 7, positions="learned", max_length=5, dropout_rate=0.0, **SIZES),
        {"source_ids": IDS, "target_ids": TARGETS},
        training.MaskedCrossEntropy(),
        TARGETS,
    )

    def bert(**more):
        still = dict(dropout_rate=0.0, attention_dropout_rate=0.0, initializer_range=0.5)
        return models.Bert(11, max_length=5, **SIZES, **still, **more)

    classifier = models.BertClassifier(bert(), num_classes=3, labels=["a", "b", "c"])
    classifier.bert.freeze(0)
    yield "classifier", classifier, IDS, entropy, np.array([2, 0])
    lora = models.BertClassifier(bert())
    lora.bert.enable_lora(2)
    yield "classifier_with_lora", lora, IDS, entropy, np.array([1, 0])
    tagger = models.BertTokenClassifier(bert(), num_classes=3)
    yield "tagger", tagger, IDS, entropy, IDS % 3
    spans = models.BertSpanPredictor(bert())
    labels = {"start": np.array([1, 0]), "end": np.array([2, 0])}
    yield "spans", spans, IDS, {name: entropy for name in labels}, labels
    embedder = models.BertEmbedder(bert(pooler=False), pooling="cls")
    yield "embedder", embedder, IDS, "mse", np.ones((2, 4), "float32")
    pretrainer = models.BertPretrainer(bert())
    inputs = {"token_ids": IDS, "masked_positions": np.array([[1, 2], [1, 0]], "int32")}
    labels = {"mlm": np.array([[5, 7], [6, 0]]), "nsp": np.array([1, 0])}
    losses = {"mlm": training.MaskedCrossEntropy(), "nsp": entropy}
    yield "pretrainer", pretrainer, inputs, losses, labels


def main(folder):
    folder, answers = pathlib.Path(folder), {}
    for name, model, inputs, loss, labels in cases():
        model.compile(training.AdamW(0.01), loss)
        model.fit(inputs, labels, epochs=2, batch_size=2, shuffle=False, verbose=0)
        model.save(folder / f"{name}.keras")
        found = model(inputs)
        found = found if isinstance(found, dict) else {"": found}
        answers |= {f"{name}/{key}": np.asarray(value) for key, value in found.items()}
        # One step more, from the optimizer's state.
        model.fit(inputs, labels, epochs=1, batch_size=2, shuffle=False, verbose=0)
        found = model(inputs)
        found = found if isinstance(found, dict) else {"": found}
        answers |= {f"{name}/later/{key}": np.asarray(value) for key, value in found.items()}
        if name in ("classifier", "transformer"):
            model.save_weights(folder / f"{name}.weights.h5")
            backup = training.BackupAndRestore(
                folder / f"{name}_backup", delete_checkpoint=False
            )
            model.fit(
                inputs, labels, epochs=1, batch_size=2, shuffle=False, verbose=0,
                callbacks=[backup],
            )  # fmt: skip
            found = model(inputs)
            answers[f"{name}/backup/"] = np.asarray(found)
    np.savez_compressed(folder / "answers.npz", **answers)


if __name__ == "__main__":
    keras.utils.set_random_seed(3)
    main(sys.argv[1])
