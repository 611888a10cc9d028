"""From raw clips to encoded ones: cutting, encoding, writing shards."""
