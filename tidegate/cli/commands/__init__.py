"""One file a group of commands: its arguments, and what they are handed to.

What runs is imported when it runs, so that no command waits for another's libraries.
"""
