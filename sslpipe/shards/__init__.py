"""A folder of shards: its manifest and index, its files, and how images are decoded."""
