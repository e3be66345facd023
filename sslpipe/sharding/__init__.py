"""Sources of images → a folder of shards."""
