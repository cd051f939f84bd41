"""The page of attention holds what it was given, whatever the tokens are, and loads nothing."""

import base64
import html.parser
import json

import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("matplotlib")

from keras_xfmr import models, text, viz

HOSTILE = ["<script>alert(1)</script>", "</script>", '"', "'", "{{data}}", "\u2028", "\ud83d", "밥"]


def attention(rng, *shape):
    weights = rng.uniform(size=shape).astype("float32")
    return weights / weights.sum(-1, keepdims=True)


class Page(html.parser.HTMLParser):
    """What a browser would find: elements, texts in them, and the data."""

    def __init__(self, page):
        super().__init__()
        self.open, self.found, self.attributes = [], {}, []
        self.feed(page)
        self.rows = json.loads(self.found["script"][0])["rows"]

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.found.setdefault(tag, []).append("")
        self.attributes += attrs

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if self.open:
            self.found[self.open[-1]][-1] += data


def weights_of(part):
    """`[layers, N, T, S]`, as the page reads them."""
    size = len(part["left"]), len(part["right"])
    layers = []
    for layer in part["layers"]:
        content = np.frombuffer(base64.b64decode(layer["weights"]), "uint8")
        layers.append(content.reshape(-1, *size) * np.array(layer["scales"])[:, None, None])
    return np.array(layers)


def test_a_list_of_layers_is_one_part(rng, tmp_path):
    weights = [attention(rng, 1, 3, 5, 5) for _ in range(2)]
    path = tmp_path / "view.html"
    page = viz.attention_view(weights, list("abcde"), path, title="A & B")
    assert path.read_text("utf8") == page
    read = Page(page)
    assert read.found["title"] == read.found["h1"] == ["A & B"]
    ((part,),) = read.rows
    assert part["name"] == "attention" and part["left"] == part["right"] == list("abcde")
    np.testing.assert_allclose(weights_of(part), np.concatenate(weights), atol=0.5 / 255 + 1e-4)


def test_nothing_is_loaded(rng):
    page = viz.attention_view([attention(rng, 1, 2, 3, 3)], list("abc"))
    read = Page(page)
    assert "http" not in page.replace("http-equiv", "") and "@import" not in page
    assert "default-src 'none'" in dict(read.attributes)["content"]
    links = [value for name, value in read.attributes if name in ("src", "href")]
    assert links == ["data:,"]


def test_any_text_is_text(rng, tmp_path):
    title = "</title><script>alert(2)</script>{{data}}\udc80"
    path = tmp_path / "view.html"
    weights = [attention(rng, 1, 2, 8, 8)]
    read = Page(viz.attention_view(weights, HOSTILE, path, title=title))
    assert len(read.found["script"]) == 2
    assert read.found["title"] == [title]
    assert read.rows[0][0]["left"] == [*HOSTILE[:5], r"\u2028", r"\ud83d", "밥"]
    assert len(Page(path.read_text("utf8")).found["script"]) == 2


def test_a_character_that_is_not_visible_has_a_sign_or_number(rng):
    shown = {
        "ab\u202ecd": r"ab\u202ecd", "\0": r"\u0000", "a\0b": r"a\u0000b", "\u2028": r"\u2028",
        "\ud83d": r"\ud83d", "a\u200bb": r"a\u200bb", "\ufeff": r"\ufeff", "\u3000": r"\u3000",
        "\u3164": r"\u3164", "\u200d": r"\u200d", "\U000e0041": r"\u{e0041}", "": "\u2205",
        " \n": "\u2423\u21b5", "a\tb": "a\u21e5b", "👨\u200d👩": "👨\u200d👩", "a b": "a b",
    }  # fmt: skip
    tokens, size = list(shown), len(shown)
    ((part,),) = Page(viz.attention_view([attention(rng, 1, 2, size, size)], tokens)).rows
    assert part["left"] == list(shown.values())
    figure = viz.attention_map(attention(rng, 1, size, size), tokens, tokens)
    drawn = [one.get_text() for one in figure.axes[0].get_xticklabels()]
    assert drawn == ["" if one == "\u2205" else one for one in shown.values()]
    figure = viz.embedding_map(rng.normal(size=(3, 5)), labels=["\u202eab", "c", "d"])
    assert r"\u202eab" in [one.get_text() for one in figure.axes[0].texts]


def test_a_file_stays_small(rng):
    weights = [attention(rng, 1, 12, 40, 40) for _ in range(12)]
    page = viz.attention_view(weights, [f"token {i}" for i in range(40)])
    assert len(page) < 340_000


def test_a_transformer_has_three_parts_and_rows_without_padding():
    model = models.Transformer(23, 29, d_model=6, num_heads=3, ffn_dim=7, num_layers=2)
    source = np.array([[5, 7, 11, 3], [5, 3, 0, 0]])
    target = np.array([[2, 9, 8, 4, 6], [2, 9, 8, 0, 0]])
    weights = model.attention_weights(source, target)
    sources, targets = [list("abcd"), list("ab")], [list("vwxyz"), list("vwx")]
    rows = Page(viz.attention_view(weights, (sources, targets))).rows
    for row, (of_source, of_target) in zip(rows, zip(sources, targets)):
        found = {part["name"]: (part["left"], part["right"]) for part in row}
        assert found == {
            "encoder": (of_source, of_source),
            "decoder": (of_target, of_target),
            "cross": (of_target, of_source),
        }
    cross = np.array([np.asarray(layer)[1, :, :3, :2] for layer in weights["cross"]])
    np.testing.assert_allclose(weights_of(rows[1][2]), cross, atol=0.5 / 255 + 1e-4)
    # As many tokens as would leave a weight out are refused.
    with pytest.raises(ValueError, match=r"encoder for 2 rows. Row 0 .* 3 queries and 3 keys"):
        viz.attention_view(weights, ([list("abc"), list("ab")], targets))


def test_a_model_reads_texts():
    tokenizer = text.ByteTokenizer()
    size = {"d_model": 6, "num_heads": 3, "ffn_dim": 7, "num_layers": 1}
    gpt = models.Gpt(tokenizer.vocab_size, max_length=17, start_id=2, end_id=3, **size)
    (part,), (short,) = Page(viz.attention_view(gpt, ["a 밥", "b"], tokenizer=tokenizer)).rows
    assert part["left"] == ["[START]", "a", "\u2423", "\ufffd", "\ufffd", "\ufffd", "[END]"]
    assert short["left"] == ["[START]", "b", "[END]"]
    ids = [[2, 7, 5], [2, 7, 3]]
    (part,), _ = Page(viz.attention_view(gpt, ids)).rows
    assert part["left"] == ["2", "7", "5"]
    expected = np.asarray(gpt.attention_weights(np.array(ids))[0])[:1]
    np.testing.assert_allclose(weights_of(part), expected, atol=0.5 / 255 + 1e-4)

    # A packer's segments, which a Gpt does not read.
    head, packer = models.Classifier(gpt, 2), text.SentencePacker(tokenizer, 11)
    ((part,),) = Page(viz.attention_view(head, ["b"], tokenizer=packer)).rows
    assert part["left"] == short["left"]

    transformer = models.Transformer(tokenizer.vocab_size, **size)
    own, other = Page(viz.attention_view(
        transformer, (["ab", "c"], ["x", "yz"]), tokenizer=tokenizer)).rows  # fmt: skip
    assert own[2]["right"] == ["a", "b", "[END]"] and own[2]["left"] == ["[START]", "x"]
    assert other[2]["right"] == ["c", "[END]"] and other[2]["left"] == ["[START]", "y", "z"]


def test_a_head_over_a_bert_reads_what_a_packer_packs():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "그는", "배를", "탔다"]
    tokenizer = text.BertTokenizer(words, lowercase=False)
    packer = text.SentencePacker(tokenizer, 11, pad_to_max_length=True)
    bert = models.Bert(8, d_model=6, num_heads=3, ffn_dim=7, num_layers=1, max_length=11)
    head = models.Classifier(bert, 3)
    texts = ["그는 탔다", "배를"]
    (first,), (second,) = Page(viz.attention_view(head, texts, tokenizer=packer)).rows
    assert first["left"] == ["[CLS]", "그는", "탔다", "[SEP]"]
    assert second["left"] == ["[CLS]", "배를", "[SEP]"]
    # A head that needs more than its encoder does.
    pretrainer = models.BertPretrainer(bert)
    assert Page(viz.attention_view(pretrainer, texts, tokenizer=packer)).rows[1] == [second]
    # A pair, packed by the user.
    packed = packer(texts[:1], texts[1:])
    ((pair,),) = Page(viz.attention_view(bert, packed, tokenizer=packer)).rows
    assert pair["left"] == ["[CLS]", "그는", "탔다", "[SEP]", "배를", "[SEP]"]
    expected = np.asarray(bert.attention_weights(packed)[0])[:, :, :6, :6]
    np.testing.assert_allclose(weights_of(pair), expected, atol=0.5 / 255 + 1e-4)
    # A tuple is such a pair; a list has separate texts.
    for two in (("그는 탔다", "배를"), (texts[:1], texts[1:])):
        assert Page(viz.attention_view(bert, two, tokenizer=packer)).rows == [[pair]]
    assert len(Page(viz.attention_view(bert, texts, tokenizer=packer)).rows) == 2
    # Ids are already packed.
    ids = packed["token_ids"][0, :6].numpy().tolist()
    ((alone,),) = Page(viz.attention_view(bert, ids, tokenizer=packer)).rows
    assert alone["left"] == pair["left"]
    with pytest.raises(ValueError, match="A tuple is a pair of texts.*SentencePacker"):
        viz.attention_view(bert, ("그는 탔다", "배를"), tokenizer=tokenizer)
    with pytest.raises(ValueError, match="A tuple is a pair of texts"):
        viz.attention_view(bert, ("그는", "탔다", "배를"), tokenizer=packer)


def test_special_tokens_and_beginnings_of_words_have_names():
    tokenizer = text.learn_sentence_piece(
        tf.data.Dataset.from_tensor_slices(["the dog 세 계", "a cat 세계"] * 9), 30
    )
    ids = tokenizer.encode(["the 세 계"], start=True).to_list()[0]
    names = viz.token_names(tokenizer, ids)
    assert names[0] == "<s>" and names[-1] == "</s>"
    assert "" not in names and "▁" in names
    assert viz.token_names(tokenizer, [tokenizer.pad_id]) == ["<pad>"]


def test_names_of_generated_targets(monkeypatch):
    tokenizer = text.ByteTokenizer()
    model = models.Transformer(
        tokenizer.vocab_size, d_model=6, num_heads=3, ffn_dim=7, num_layers=1
    )
    written = {"token_ids": np.array([[101, 102, 3, 0]])}
    monkeypatch.setattr(type(model), "generate", lambda self, ids: written)
    ((*_, cross),) = Page(viz.attention_view(model, "x", tokenizer=tokenizer)).rows
    assert cross["left"] == ["[START]", "a", "b"] and cross["right"] == ["x", "[END]"]


@pytest.mark.parametrize(
    "weights, tokens, error, message",
    [
        ([], ["a"], ValueError, "one layer or more. Received: none"),
        ([np.full((1, 2, 1, 1), np.nan)], ["a"], ValueError, "finite and not negative"),
        ([np.ones((2, 1, 1, 1))], ["a"], ValueError, "for 1 rows"),
        ([np.ones((1, 1, 2, 2))], ["a", 7], TypeError, "Received: 7"),
        ({"crossed": []}, (["a"], ["b"]), ValueError, "crossed"),
        ([np.broadcast_to(np.float32(0), (1, 1, 1, 2**27))], ["a"], ValueError, "Expected at most"),
    ],
)
def test_what_cannot_be_shown_is_refused(weights, tokens, error, message, tmp_path):
    with pytest.raises(error, match=message):
        viz.attention_view(weights, tokens, tmp_path / "view.html")
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_beside_weights_is_refused(rng):
    with pytest.raises(ValueError, match="token_names"):
        viz.attention_view(
            [attention(rng, 1, 2, 3, 3)], list("abc"), tokenizer=text.ByteTokenizer()
        )
    with pytest.raises(ValueError, match="need a `tokenizer`"):
        model = models.Gpt(23, d_model=6, num_heads=3, ffn_dim=7, num_layers=1)
        viz.attention_view(model, ["a text"])
