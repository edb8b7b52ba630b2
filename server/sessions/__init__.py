"""Sessions: who is live in which slot, which step is next, and what was answered before."""
