"""What exists and what we want from it: manifests and recipes, and their files on disk."""
