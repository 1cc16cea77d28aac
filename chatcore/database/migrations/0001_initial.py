"""The first tables. The models here are copies that stay as they are when those of `tables.py` change."""

import peewee

from chatcore.database.sqlite import Sqlite


def up(migrator: object, db: Sqlite) -> None:
    """Makes the tables and the search index."""

    class Base(peewee.Model):
        class Meta:
            database = db
            legacy_table_names = False

    class Conversation(Base):
        key = peewee.BigAutoField(constraints=db.row_id_constraints)
        id = peewee.TextField()
        owner = peewee.TextField()
        title = peewee.TextField(null=True)
        title_source = peewee.TextField()
        saved = peewee.BooleanField()
        timezone = peewee.TextField(null=True)
        llm_settings = peewee.JSONField(null=True)
        leaf = peewee.BigIntegerField(null=True)
        created_at = peewee.BigIntegerField()
        updated_at = peewee.BigIntegerField()

        class Meta:
            indexes = ((("owner", "id"), True), (("owner", "saved", "updated_at"), False))

    class Message(Base):
        id = peewee.BigAutoField(constraints=db.row_id_constraints)
        conversation = peewee.ForeignKeyField(Conversation, on_delete="CASCADE", index=False)
        parent = peewee.ForeignKeyField("self", null=True)
        role = peewee.TextField()
        state = peewee.TextField()
        text = peewee.TextField(null=True)
        body = peewee.JSONField(null=True)
        run_id = peewee.TextField(null=True)
        client_id = peewee.TextField(null=True)
        parent_client_id = peewee.TextField(null=True)
        created_at = peewee.BigIntegerField()

        class Meta:
            indexes = ((("conversation", "role"), False),)
            constraints = (peewee.Check("parent_id < id"),)

    class Run(Base):
        id = peewee.TextField(primary_key=True)
        owner = peewee.TextField()
        conversation = peewee.ForeignKeyField(Conversation, on_delete="CASCADE")
        client_id = peewee.TextField(null=True)
        format = peewee.TextField()
        model = peewee.TextField()
        state = peewee.TextField(index=True)
        reason = peewee.TextField(null=True)
        worker = peewee.TextField()
        lease_until = peewee.BigIntegerField()
        question = peewee.BigIntegerField(null=True)
        last_seq = peewee.BigIntegerField()
        turn = peewee.JSONField()
        created_at = peewee.BigIntegerField()
        ended_at = peewee.BigIntegerField(null=True)

    class RunLog(Base):
        run = peewee.ForeignKeyField(Run, on_delete="CASCADE", index=False)
        first_seq = peewee.BigIntegerField()
        last_seq = peewee.BigIntegerField()
        data = peewee.BlobField()

        class Meta:
            primary_key = peewee.CompositeKey("run", "first_seq")

    class RunJournal(Base):
        id = peewee.BigAutoField(constraints=db.row_id_constraints)
        worker = peewee.TextField()
        data = peewee.BlobField()

    class Document(Base):
        owner = peewee.TextField()
        namespace = peewee.TextField()
        key = peewee.TextField()
        value = peewee.JSONField()
        updated_at = peewee.BigIntegerField()

        class Meta:
            primary_key = peewee.CompositeKey("owner", "namespace", "key")

    class Token(Base):
        id = peewee.TextField(primary_key=True)
        owner = peewee.TextField()
        name = peewee.TextField()
        scopes = peewee.JSONField()
        hash = peewee.BlobField(unique=True)
        created_at = peewee.BigIntegerField()
        expires_at = peewee.BigIntegerField(null=True)
        last_used_at = peewee.BigIntegerField(null=True)
        revoked_at = peewee.BigIntegerField(null=True)

    db.create_tables([Conversation, Message, Run, RunLog, RunJournal, Document, Token])
    db.create_search_index()
