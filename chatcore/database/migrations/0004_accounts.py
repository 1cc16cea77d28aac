"""What people have with other services, encrypted, and the sign-ins that are under way."""

import peewee


def up(migrator: object, db: peewee.Database) -> None:
    """Makes the tables."""

    class Base(peewee.Model):
        class Meta:
            database = db
            legacy_table_names = False

    class Account(Base):
        owner = peewee.TextField()
        name = peewee.TextField()
        subject = peewee.TextField()
        scopes = peewee.JSONField()
        sealed = peewee.TextField()
        expires_at = peewee.BigIntegerField(null=True)
        refused = peewee.BooleanField()
        updated_at = peewee.BigIntegerField()

        class Meta:
            primary_key = peewee.CompositeKey("owner", "name")

    class SignIn(Base):
        id = peewee.TextField(primary_key=True)
        owner = peewee.TextField()
        sealed = peewee.TextField()
        waits = peewee.BooleanField()
        answer = peewee.TextField(null=True)
        expires_at = peewee.BigIntegerField()

    db.create_tables([Account, SignIn])
