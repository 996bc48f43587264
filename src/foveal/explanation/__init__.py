"""Why the model said so: relevance maps."""
