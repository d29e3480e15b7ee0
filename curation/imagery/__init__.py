"""Any raw image as upright 8-bit RGB windows, with its place on the ground."""
