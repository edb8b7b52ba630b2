"""`tidegate top`: scrapes a server's metrics page again and again, and shows what changed."""
