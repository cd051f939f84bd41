"""Code that all models share: configuration, inputs, data, searches, published weights."""
