"""Shards become batches: index, order, noise, reading, augmentation."""
