"""What a user has said of the privacy of a plan: in a request's metadata, in any of the forms that clients use."""

from typing import Any, Literal, TypeAlias

Consent: TypeAlias = Literal["granted", "denied"]

_WORDS: dict[str, Consent] = {
    **dict.fromkeys(("granted", "approved", "allow", "allowed", "yes"), "granted"),
    **dict.fromkeys(("denied", "declined", "rejected", "no"), "denied"),
}


def consent_in(given: Any) -> Consent | None:
    """Granted or denied; None if that was not said: a boolean, a word, or an object with the word as its `status`."""
    if isinstance(given, dict):
        given = given.get("status")
    if isinstance(given, bool):
        return "granted" if given else "denied"
    return _WORDS.get(given.strip().lower()) if isinstance(given, str) else None


def details_of(given: Any) -> dict[str, Any]:
    """What an object says beside its status, as far as it is plain."""
    plain = str | int | float | bool
    said = given.items() if isinstance(given, dict) else ()
    return {key: value for key, value in said if key != "status" and isinstance(value, plain)}
