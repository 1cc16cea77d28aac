"""What `current_time` of the housekeeping server tells beside the time itself."""

from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

ZONE = ZoneInfo("America/New_York")


def times(now: datetime) -> dict[str, Any]:
    """A moment in UTC in all the forms that clients know."""
    eastern = now.astimezone(ZONE)
    display = f"{eastern:%A, %B} {eastern.day}, {eastern:%Y, %I:%M:%S %p %Z}"
    lines = [
        f"Now: {display} ({ZONE.key})",
        f"Local: {eastern.isoformat()}",
        f"UTC: {now.isoformat()}",
        *_dates(eastern),
    ]
    return {
        "utc_iso": now.isoformat(),
        "utc_unix": int(now.timestamp()),
        "utc_unix_precise": f"{now.timestamp():.6f}",
        "eastern_iso": eastern.isoformat(),
        "eastern_abbreviation": f"{eastern:%Z}",
        "eastern_display": display,
        "eastern_offset": f"{eastern:%z}",
        "timezone": ZONE.key,
        "context_lines": lines,
        "context_summary": "\n".join(lines),
    }


def _dates(local: datetime) -> list[str]:
    """The dates that people speak of without naming them."""
    today = local.date()
    monday = today - timedelta(days=today.weekday())
    named = {"Tomorrow": 1, "In three days": 3, "In a week": 7}
    return [
        f"This week: {monday:%A %Y-%m-%d} to {monday + timedelta(days=6):%A %Y-%m-%d}",
        *(f"{name}: {today + timedelta(days=days):%A %Y-%m-%d}" for name, days in named.items()),
    ]
