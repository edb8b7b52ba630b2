"""What is served: a model version with its sessions, all such by name, and how they are loaded."""
