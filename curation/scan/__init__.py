"""From raw images to rows of tiles: slice, fingerprint, measure."""
