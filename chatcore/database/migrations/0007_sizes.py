"""What each conversation takes, so that nobody has to read it to know that."""

from chatcore.database.messages import size_in_sql
from chatcore.database.sqlite import Sqlite


def up(migrator: object, db: Sqlite) -> None:
    """Adds the column, and counts what is there."""
    db.execute_sql("ALTER TABLE conversation ADD COLUMN size BIGINT NOT NULL DEFAULT 0")
    for table, taken in (("message", size_in_sql(db.octets)), ("attachment", "attachment.size / 3 * 4")):
        its = f'SELECT COALESCE(SUM({taken}), 0) FROM {table} WHERE conversation_id = conversation."key"'  # noqa: S608  names of ours
        db.execute_sql(f"UPDATE conversation SET size = size + ({its})")  # noqa: S608  names of ours
