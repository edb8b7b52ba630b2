"""Why to trust a trained network: what it learned, remembers and gets wrong, in pictures."""
