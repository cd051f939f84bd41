"""A request is looked at before a model reads it."""

import tensorflow as tf

from keras_xfmr.serving.requests import cut_beginning, read_up_to


def awaited(op):
    """All operations that run before this one."""
    found, waiting = set(), [op]
    while waiting:
        op = waiting.pop()
        before = {tensor.op for tensor in op.inputs} | set(op.control_inputs)
        waiting += before - found
        found |= before
    return found


def test_what_reads_the_ids_waits_for_every_check():
    """Or a lookup of an id outside its table might fail first, with a message of its own."""

    @tf.function(autograph=False)
    def embed(token_ids, lengths):
        token_ids, mask, _ = read_up_to(token_ids, lengths, 7, vocab_size=11, pad_id=0)
        table = tf.eye(11)
        return tf.gather(table, token_ids, name="lookup"), tf.identity(mask, name="masked")

    ids, lengths = tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None], tf.int32)
    graph = embed.get_concrete_function(ids, lengths).graph
    checks = {op for op in graph.get_operations() if op.type == "If" or op.type == "Assert"}
    assert len(checks) == 1  # of the number of lengths; what else is wrong is wrong in one row
    assert checks <= awaited(graph.get_operation_by_name("lookup"))


def test_the_end_of_a_text_is_cut_between_characters():
    texts = [b"abc", b"", "é안🙂".encode(), "🙂🙂é안🙂".encode(), b"ab\x80\x80c", "é".encode() * 9]
    expected = ["abc", "", "é안🙂", "é안🙂", "\ufffd\ufffdc", "ééé"]
    kept, cut = cut_beginning(tf.constant(texts), 3)
    assert [value.decode() for value in kept.numpy()] == expected
    assert cut.numpy().tolist() == [False, False, False, True, True, True]
    # The first of the last bytes that are looked at may stand inside a character.
    for most in range(1, 9):
        whole = "안é🙂a" * 7
        kept, cut = cut_beginning(tf.constant([whole + "x" * i for i in range(9)]), most)
        found = [value.decode() for value in kept.numpy()]
        assert found == [(whole + "x" * i)[-most:] for i in range(9)] and cut.numpy().all()
