"""Tool calls that wait for a person's consent, the turns that wait with them, and trusted definitions of tools."""

import peewee


def up(migrator: object, db: peewee.Database) -> None:
    """Makes the tables."""

    class Base(peewee.Model):
        class Meta:
            database = db
            legacy_table_names = False

    class Run(Base):
        id = peewee.TextField(primary_key=True)

    class Message(Base):
        id = peewee.BigAutoField()

    class Approval(Base):
        place = peewee.ForeignKeyField(Message, on_delete="CASCADE", primary_key=True)
        run = peewee.ForeignKeyField(Run, on_delete="CASCADE")
        call_id = peewee.TextField()
        tool = peewee.TextField()
        arguments = peewee.JSONField()
        digest = peewee.TextField()
        expires_at = peewee.BigIntegerField()
        decision = peewee.TextField(null=True)
        settled = peewee.BooleanField()

    class PausedTurn(Base):
        run = peewee.ForeignKeyField(Run, on_delete="CASCADE", primary_key=True)
        data = peewee.JSONField()

    class ToolPin(Base):
        source = peewee.TextField()
        name = peewee.TextField()
        definition = peewee.JSONField()
        fingerprint = peewee.TextField()
        changed = peewee.JSONField(null=True)
        changed_fingerprint = peewee.TextField(null=True)

        class Meta:
            primary_key = peewee.CompositeKey("source", "name")

    db.create_tables([Approval, PausedTurn, ToolPin])
