"""What several workers need: what they tell each other of runs, and who does which job."""

import peewee


def up(migrator: object, db: peewee.Database) -> None:
    """Makes the tables."""

    class Base(peewee.Model):
        class Meta:
            database = db
            legacy_table_names = False

    class RunSignal(Base):
        worker = peewee.TextField()
        run_id = peewee.TextField()
        kind = peewee.TextField()
        until = peewee.BigIntegerField()

        class Meta:
            primary_key = peewee.CompositeKey("worker", "run_id", "kind")

    class Job(Base):
        name = peewee.TextField(primary_key=True)
        worker = peewee.TextField()
        until = peewee.BigIntegerField()

    db.create_tables([RunSignal, Job])
