"""What the methods share: the class they derive from, scales of papers, monitors, pictures."""
