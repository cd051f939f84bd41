"""What ONNX Runtime and LiteRT read of an export: the signature `ids`, by their own operations."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from served import unchecked

from keras_xfmr import layers, models, serving, text

IDS = {
    "token_ids": [[2, 5, 7, 3, 6, 7, 5, 3], [2, 6, 3, 5, 3, 2, 2, 2], [2, 99, 3, 5, 3, 2, 2, 2]],
    "segment_ids": [[0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 0, 0, 0], [0] * 8],
    "lengths": [8, 5, 5],
}


def test_operations_that_tensorflow_alone_has():
    """`Erfc` was that of GELU, the bits those of Keras' argmax."""
    ffn = layers.PositionWiseFFN(5, activation="gelu")
    ffn.build((None, None, 3))

    @tf.function(autograph=False)
    def compute(x):
        start, end = tf.unstack(ffn(x)[..., :2], axis=-1)
        return models.best_spans(start, end, x[..., 0] > 0)

    graph = compute.get_concrete_function(tf.TensorSpec([None, None, 3])).graph
    found = {op.type for op in graph.get_operations()}
    assert "MatMul" in found and not found & {"Erfc", "Bitcast", "BitwiseAnd"}


@pytest.fixture(scope="module")
def spans(tmp_path_factory):
    """The path of an export, and what its `ids` answers."""
    keras.utils.set_random_seed(7)
    sizes = dict(d_model=12, num_heads=3, ffn_dim=17, num_layers=1, max_length=11)
    model = models.BertSpanPredictor(models.Bert(8, **sizes, initializer_range=0.7))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film"]
    packer = text.QuestionPacker(text.BertTokenizer(words), 11, stride=2, max_question_length=3)
    with unchecked():
        path = serving.export_encoder(model, packer, tmp_path_factory.mktemp("spans"))
    service = tf.saved_model.load(path)
    return path, service.signatures["ids"](**{k: tf.constant(v) for k, v in IDS.items()})


def feed():
    return {name: np.array(values, "int32") for name, values in IDS.items()}


def assert_same(found, expected):
    assert set(found) == set(expected) and expected["valid"].numpy().tolist() == [True, True, False]
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the converter
def test_lite_runtime_reads_spans_without_tensorflows_operations(spans):
    path, expected = spans
    converter = tf.lite.TFLiteConverter.from_saved_model(path, signature_keys=["ids"])
    assert converter.target_spec.supported_ops == {tf.lite.OpsSet.TFLITE_BUILTINS}
    runtime = tf.lite.Interpreter(model_content=converter.convert())
    assert_same(runtime.get_signature_runner("ids")(**feed()), expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the converter
def test_onnx_runtime_reads_spans(spans):
    extra = "the extra [onnx] is not installed"
    tf2onnx = pytest.importorskip("tf2onnx", reason=extra)
    onnxruntime = pytest.importorskip("onnxruntime", reason=extra)
    path, expected = spans
    service = tf.saved_model.load(path)
    function = tf.function(lambda *ids: service.signatures["ids"](**dict(zip(IDS, ids))))
    shapes = [[None] * values.ndim for values in feed().values()]
    signature = [tf.TensorSpec(shape, tf.int32, name=name) for name, shape in zip(IDS, shapes)]
    model, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=17)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    assert_same(dict(zip(names, session.run(None, feed()))), expected)
