"""What people train on top of an encoder, each head over any of them."""
