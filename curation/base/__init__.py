"""The ground floor: errors, settings, locks, progress, files; knows nothing of imagery."""
