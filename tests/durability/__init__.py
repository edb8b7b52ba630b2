"""Proof over real processes that sessions survive: kills, stores that fail, clocks that jump."""
