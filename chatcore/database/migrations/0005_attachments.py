"""Files that belong to conversations."""

import peewee


def up(migrator: object, db: peewee.Database) -> None:
    """Makes the table."""

    class Base(peewee.Model):
        class Meta:
            database = db
            legacy_table_names = False

    class Conversation(Base):
        key = peewee.BigAutoField()

    class Attachment(Base):
        id = peewee.TextField(primary_key=True)
        conversation = peewee.ForeignKeyField(Conversation, null=True, on_delete="SET NULL")
        blob = peewee.TextField()
        media_type = peewee.TextField()
        filename = peewee.TextField()
        size = peewee.BigIntegerField()
        created_at = peewee.BigIntegerField()

    db.create_tables([Attachment])
