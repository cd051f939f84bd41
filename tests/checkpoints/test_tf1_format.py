"""TensorFlow checkpoints: an index made by hand, and TensorFlow's own files and answers."""

import numpy as np
import pytest
from weight_files import FLOATS, INTEGERS, bundle_entry, sample_tf_index, tf_index, write_tf

from keras_xfmr.checkpoints import read_checkpoint


@pytest.mark.portable
def test_an_index_made_by_hand(tmp_path):
    prefix = write_tf(tmp_path, sample_tf_index())
    for path in (prefix, str(prefix), f"{prefix}.index", tmp_path):
        with read_checkpoint(path) as checkpoint:
            assert checkpoint.format == "tf1"
            assert checkpoint.shapes == {"floats": (5, 7), "integers": (3,)}
            np.testing.assert_array_equal(checkpoint["floats"], FLOATS, strict=True)
            np.testing.assert_array_equal(checkpoint["integers"], INTEGERS, strict=True)
    with pytest.raises(ValueError, match="model.ckpt cannot be read: .*closed file"):
        checkpoint["floats"]


@pytest.mark.portable
def test_parts_in_several_data_files(tmp_path):
    pairs = [(b"a", bundle_entry(1, (5, 7), 0, 140, shard=2)), (b"b", bundle_entry(9, (3,), 0, 24))]
    (tmp_path / "m.ckpt.index").write_bytes(tf_index([pairs], shards=3))
    (tmp_path / "m.ckpt.data-00002-of-00003").write_bytes(FLOATS.tobytes())
    with pytest.raises(FileNotFoundError, match="m.ckpt.data-00000-of-00003"):
        read_checkpoint(tmp_path)
    (tmp_path / "m.ckpt.data-00000-of-00003").write_bytes(INTEGERS.tobytes())
    with read_checkpoint(tmp_path) as checkpoint:
        np.testing.assert_array_equal(checkpoint["a"], FLOATS)
        np.testing.assert_array_equal(checkpoint["b"], INTEGERS)


def same_as_tensorflow(prefix):
    import tensorflow as tf

    peer = tf.train.load_checkpoint(str(prefix))
    checkpoint = read_checkpoint(prefix)
    dtypes, shapes = peer.get_variable_to_dtype_map(), peer.get_variable_to_shape_map()
    numeric = {name for name, dtype in dtypes.items() if dtype != tf.string}
    assert set(checkpoint) == numeric
    for name in numeric:
        expected = peer.get_tensor(name)
        if dtypes[name] in (tf.float16, tf.bfloat16):
            expected = expected.astype(np.float32)
        np.testing.assert_array_equal(checkpoint[name], expected, strict=True, err_msg=name)
        assert checkpoint.shapes[name] == tuple(shapes[name])
    return checkpoint


@pytest.mark.requires_tensorflow
def test_a_saver_of_tensorflow_1(tmp_path):
    import tensorflow as tf

    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        for name, shape in (("bert/a/kernel", (5, 7)), ("bert/a/kernel/adam_m", (5, 7)), ("b", ())):
            v1.get_variable(name, shape, initializer=v1.random_normal_initializer())
        v1.train.create_global_step()
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(tmp_path / "bert_model.ckpt"))
    checkpoint = same_as_tensorflow(tmp_path / "bert_model.ckpt")
    assert "bert/a/kernel/adam_m" in checkpoint and checkpoint["global_step"] == 0
    # With the file that names the newest checkpoint, after a move, and without it.
    assert set(read_checkpoint(tmp_path)) == set(checkpoint)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/gone/to/bert_model.ckpt"\n')
    assert set(read_checkpoint(tmp_path)) == set(checkpoint)
    (tmp_path / "checkpoint").unlink()
    assert set(read_checkpoint(tmp_path)) == set(checkpoint)


@pytest.mark.requires_tensorflow
def test_every_type_and_an_index_of_many_blocks(tmp_path, rng):
    import tensorflow as tf

    names = [f"{'scope/' * 20}{i:04}{'x' * (i % 97)}" for i in range(4001)]
    values = [rng.normal(size=3 + i % 2).astype(np.float32) for i in range(4001)]
    kinds = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 uint16 bool complex64"
    for kind in kinds.split():
        names.append(kind)
        values.append(tf.cast(tf.constant(rng.integers(0, 2, (3, 5))), kind))
    names, values = [*names, "text"], [*values, tf.constant(["a string"])]
    prefix = str(tmp_path / "many.ckpt")
    tf.raw_ops.SaveV2(
        prefix=prefix, tensor_names=names, shape_and_slices=[""] * len(names), tensors=values
    )
    assert (tmp_path / "many.ckpt.index").stat().st_size > 2**18  # a block of TensorFlow's
    assert len(same_as_tensorflow(prefix)) == len(names) - 1


@pytest.mark.requires_tensorflow
def test_a_partitioned_variable_is_named(tmp_path):
    import tensorflow as tf

    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "a.ckpt"),
        tensor_names=["table", "table"],
        shape_and_slices=["5 7 0,2:-", "5 7 2,3:-"],
        tensors=[FLOATS[:2], FLOATS[2:]],
    )
    with pytest.raises(ValueError, match="'table' is partitioned"):
        read_checkpoint(tmp_path)
