"""Runs: turns that live on their own, with a log that any number of readers follow.

| what | where |
|---|---|
| a turn: the model is asked, its tools are run, and it is asked again | `turn`, `toolcalls`, `progress` |
| what a call waits for: a person's consent, or an answer to its question | `approvals`, `questions`, `paused` |
| a run: a turn under way, and all of them that a worker has | `run`, `runs`, `stop`, `counts` |
| its log on the way to the database, and those who read it | `log`, `eventlog`, `readers`, `replay` |
| what becomes of the runs of a worker that is dead | `recovery`, `takeover` |
"""
