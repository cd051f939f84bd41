"""Files to batches: `tf.data` pipelines."""
