"""`tidegate-train`'s commands, a file each: `add_arguments` and `run`."""
