"""What earlier releases wrote and spoke, kept in `released/VERSION`, beside today's server."""
