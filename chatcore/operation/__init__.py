"""Looking after a server: backups, and finding out what is wrong with it."""
