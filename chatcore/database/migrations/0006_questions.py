"""What running tools ask a person."""

import peewee


def up(migrator: object, db: peewee.Database) -> None:
    """Makes the table."""

    class Base(peewee.Model):
        class Meta:
            database = db
            legacy_table_names = False

    class Run(Base):
        id = peewee.TextField(primary_key=True)

    class Question(Base):
        id = peewee.TextField(primary_key=True)
        run = peewee.ForeignKeyField(Run, on_delete="CASCADE")
        call_id = peewee.TextField()
        asker = peewee.TextField()
        message = peewee.TextField()
        form = peewee.JSONField()
        url = peewee.TextField(null=True)
        digest = peewee.TextField()
        expires_at = peewee.BigIntegerField()
        action = peewee.TextField(null=True)
        content = peewee.JSONField(null=True)
        closed = peewee.BooleanField()

    db.create_tables([Question])
