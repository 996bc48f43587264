"""One file a published system: card, settings, composition, evidence."""
