"""Smaller, faster models: fewer tokens, fewer weights, fewer bits, each with what it cost in accuracy."""
