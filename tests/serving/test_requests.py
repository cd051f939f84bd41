"""A request is looked at before a model reads it."""

import tensorflow as tf

from keras_xfmr.serving.requests import read_up_to


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
        token_ids, mask = read_up_to(token_ids, lengths, 7, vocab_size=11, pad_id=0)
        table = tf.eye(11)
        return tf.gather(table, token_ids, name="lookup"), tf.identity(mask, name="masked")

    ids, lengths = tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None], tf.int32)
    graph = embed.get_concrete_function(ids, lengths).graph
    checks = {op for op in graph.get_operations() if op.type == "If" or op.type == "Assert"}
    assert len(checks) == 4
    assert checks <= awaited(graph.get_operation_by_name("lookup"))
