"""What each conversation takes, so that nobody has to read it to know that."""

from chatcore.database.sqlite import Sqlite

# As `messages.py` counts it now, and 0007 for ever: what it becomes there is another migration's.
_BODY = "CAST(body AS TEXT)"
_VALUES = f"length({_BODY}) - length(replace(replace(replace({_BODY}, ',', ''), '[', ''), '{{', ''))"


def up(migrator: object, db: Sqlite) -> None:
    """Adds the column, and counts what is there."""
    db.execute_sql("ALTER TABLE conversation ADD COLUMN size BIGINT NOT NULL DEFAULT 0")
    message = f"COALESCE({db.octets('text')}, 0) + COALESCE({db.octets(_BODY)} + 32 * ({_VALUES}), 0)"
    for table, taken in (("message", message), ("attachment", "attachment.size / 3 * 4")):
        its = f'SELECT COALESCE(SUM({taken}), 0) FROM {table} WHERE conversation_id = conversation."key"'  # noqa: S608  names of ours
        db.execute_sql(f"UPDATE conversation SET size = size + ({its})")  # noqa: S608  names of ours
