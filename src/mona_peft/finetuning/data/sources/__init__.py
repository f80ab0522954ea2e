"""Where data comes from: official archives, the Hub, folders, shards."""
