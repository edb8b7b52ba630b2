"""`tidegate sessions`: what can be asked about, and done with, whole sessions."""
