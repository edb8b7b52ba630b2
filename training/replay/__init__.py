"""Held-out sessions through a real server: do callers get what was measured offline?"""
