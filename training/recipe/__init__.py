"""What a CONFIG.toml says: where the table is, what to learn from it, with what network and how."""
