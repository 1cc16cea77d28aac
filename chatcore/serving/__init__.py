"""Serving an app: one process, or several under a supervisor."""
