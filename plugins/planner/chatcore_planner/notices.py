"""What the client is told of a plan."""

from typing import Any

from chatcore.types import Notice
from chatcore_planner.consent import Consent, details_of
from chatcore_planner.plan import Plan

_CONSENT = {
    "required": "The tools are withheld until you consent",
    "granted": "You have consented",
    "denied": "You have not consented; nothing was done",
}


def plan_status(plan: Plan) -> Notice:
    """That there is a plan, and what it is."""
    message = f"No plan: {plan.failure}. All tools are offered." if plan.failure else plan.intent or "Planned."
    data: dict[str, Any] = {
        "used_fallback": plan.is_fallback,
        "fallback_reason": plan.failure,
        "contexts": list(plan.contexts),
        "display_contexts": [context.strip("_").replace("_", " ").title() for context in plan.contexts],
        "intent": plan.intent,
        "broad_search": plan.broad,
    }
    if plan.ranked:
        data["candidate_contexts"] = list(plan.ranked)
    return Notice("tool_plan_status", message, data)


def consent_status(status: Consent | None, plan: Plan, given: Any) -> Notice:
    """That consent is required, or what was said to that."""
    kind = status or "required"
    data: dict[str, Any] = {"contexts": list(plan.contexts), "intent": plan.intent}
    if status is None:
        data["candidate_tools"] = {context: list(names) for context, names in plan.candidates.items()}
    else:
        data |= {"status": status, "details": details_of(given)}
    message = f"{_CONSENT[kind]}: {plan.privacy_note}" if plan.privacy_note else f"{_CONSENT[kind]}."
    return Notice(f"privacy_consent_{kind}", message, data)
