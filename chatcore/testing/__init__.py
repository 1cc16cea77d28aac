"""The kit for the authors of plugins: a server for a test, a provider that follows a script, fakes, contracts."""
