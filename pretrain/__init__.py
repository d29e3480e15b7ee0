"""Pretraining: masked image modelling on the shards that :mod:`curation` writes."""
