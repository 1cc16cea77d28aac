"""Jobs that one worker at a time does for all, by lease."""

from collections.abc import Collection
from datetime import UTC, datetime

import attrs

from chatcore.database import tables
from chatcore.database.handle import Database
from chatcore.database.repository import writes


@attrs.frozen
class Jobs:
    """Who does which job."""

    database: Database

    @writes
    def claim(self, job: str, worker: str, until: datetime, dead_workers: Collection[str] = ()) -> bool:
        """Whether the job is this worker's until then: nobody does it, or who did it has been silent for too long, or
        is known to be dead, or is this worker."""
        table = tables.Job
        free = (table.until < datetime.now(UTC)) | table.worker.in_((worker, *dead_workers))
        row = {table.name: job, table.worker: worker, table.until: until}
        taken = table.insert(row).on_conflict(
            conflict_target=[table.name], update={table.worker: worker, table.until: until}, where=free
        )
        return bool(tables.fetch(taken.returning(table.name)))

    @writes
    def release(self, worker: str) -> None:
        """Leaves this worker's jobs to the others."""
        tables.Job.delete().where(tables.Job.worker == worker).execute()
