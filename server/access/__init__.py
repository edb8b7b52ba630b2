"""Who may call what, and how much of it: tokens, roles, tenants, quotas. Below everything."""
