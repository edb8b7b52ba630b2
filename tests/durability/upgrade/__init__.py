"""Proof that servers are replaced by another version's, and back, and no session notices."""
