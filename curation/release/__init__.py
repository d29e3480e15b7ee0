"""What leaves the house: locks, rebuilt shards, footprints, published corpora."""
