"""`tidegate bench`: sessions of its own, stepped all at a time through the public client."""
