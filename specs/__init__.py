"""One spec an architecture, by its usual name."""
