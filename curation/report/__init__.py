"""The page that shows what came out, what did not, and why."""
