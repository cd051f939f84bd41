"""What every model is made of: configuration, inputs, data, searches, published weights."""
