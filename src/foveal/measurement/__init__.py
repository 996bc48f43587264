"""From masks to numbers."""
