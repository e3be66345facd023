"""What every stage did, kept in files (the truth) and shown by MLflow (a mirror that can be rebuilt)."""
