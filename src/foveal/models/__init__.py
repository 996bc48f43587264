"""What is saved and loaded: an encoder, its head and its preprocessing."""
