"""Model bundles on disk: their manifest, their verification, and the repository that holds them."""
