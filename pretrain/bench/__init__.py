"""How fast this machine trains: steps alone, the loader alone, and a whole run from shards."""
