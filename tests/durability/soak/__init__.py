"""A soak: servers under a mixed load with churn for as long as one likes, and what became of it.

`python -m tests.durability.soak` is the command; `callers` are the load, `tally` what they saw,
`places` the servers and what befalls them, `samples` what the servers' processes were like, and
`report` the table and the verdict.
"""
