"""The commands of the core, one a module. Each is imported when it is called."""
