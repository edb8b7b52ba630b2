"""From a file of rows to sessions of features and targets, split, with their statistics."""
