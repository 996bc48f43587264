"""Learning signals: from a batch to named losses."""
