"""Runs: turns that live on their own, with a log that any number of readers follow.

| what | where |
|---|---|
| a turn: the model is asked, its tools are run, and it is asked again | `turn`, `toolcalls`, `progress` |
| what a call waits for: a person's consent, or an answer to its question | `approvals`, `questions`, `paused` |
| a run, which is a turn under way, from its start to its end | `run`, `stop`, `generation`, `closing` |
| all that a worker has, and the way to those of others | `runs`, `held`, `signals`, `counts` |
| its log on the way to the database, and those who read it | `log`, `eventlog`, `readers`, `replay` |
| what becomes of the runs of a worker that is dead | `upkeep`, `recovery`, `takeover` |
"""
