"""Accounts with other services: who is signed in where, signing in, and the page that a browser comes back to."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

import attrs
import click
from quart import Blueprint, Response, request

from chatcore import wire
from chatcore.access import authenticated, current_principal, public
from chatcore.accounts import CALL_BACK, Accounts, Answer, Status
from chatcore.builtin.accounts.command import accounts_command
from chatcore.builtin.accounts.page import page
from chatcore.errors import ChatcoreError, Unauthenticated
from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.openapi import describe
from chatcore.requests import read_body
from chatcore.secrets import Secret
from chatcore.state import current
from chatcore.types import Principal


class AccountRoutes(Plugin[NoSettings]):
    """Signs users in to other services, for the plugins that use these."""

    @hookimpl
    def register_routes(self) -> Iterable[Blueprint]:
        routes = Blueprint("accounts", __name__)
        routes.add_url_rule(CALL_BACK, view_func=call_back, methods=["GET"])
        routes.add_url_rule("/api/accounts", view_func=list_accounts, methods=["GET"])
        routes.add_url_rule("/api/accounts/<path:name>/sign-in", view_func=sign_in, methods=["POST"])
        routes.add_url_rule("/api/accounts/<path:name>", view_func=forget, methods=["DELETE"])
        yield routes

    @hookimpl
    def register_commands(self) -> Iterable[click.Command]:
        yield accounts_command(self.context.database, self.context.host.accounts)


@attrs.frozen
class AccountList:
    """How you stand with each service."""

    accounts: Sequence[Status]


@attrs.frozen
class SignInRequest:
    """What was typed into the account's form, by the names of its fields; nothing for a sign-in with OAuth."""

    fields: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen
class SignInAnswer:
    """Where the browser is to go for a sign-in with OAuth, null after one with a form."""

    url: str | None = None


@attrs.frozen
class Forgotten:
    """Whether the service was told, and has revoked what it had given."""

    revoked: bool


@describe(summary="The services you can sign in to", answer=AccountList)
@authenticated
async def list_accounts() -> Response:
    """And those you are signed in to though their plugin is gone. `sign_in_again`: the service takes what is stored no
    more."""
    return _json(AccountList(await _accounts().statuses(current_principal())))


@describe(summary="Sign in to a service", body=SignInRequest, answer=SignInAnswer, errors=(404, 409, 502))
@authenticated
async def sign_in(name: str) -> Response:
    """With a form it is done when this is answered. With OAuth the browser goes to `url`, best in a window of its own;
    it comes back to a page that tells its opener, with a message `{type: "chatcore-account", ok}`, how it went."""
    principal, accounts = current_principal(), _accounts()
    if accounts.has_form(name):
        await accounts.submit(principal, name, (await read_body(SignInRequest)).fields)
        return _json(SignInAnswer())
    return _json(SignInAnswer(await accounts.begin(principal, name)))


@describe(summary="Sign out of a service", answer=Forgotten, errors=(404,))
@authenticated
async def forget(name: str) -> Response:
    """What the service had given is revoked there, if it can be, and forgotten here in any case."""
    return _json(Forgotten(await _accounts().forget(current_principal(), name)))


@describe(summary="Where a browser comes back to from a sign-in")
@public
async def call_back() -> Response:
    """A page for the user. If nothing has come of it, the status is that of the error (400, 502), and it says why."""
    answer = Answer(
        state=request.args.get("state", ""),
        code=Secret(request.args.get("code", "")),
        issuer=request.args.get("iss"),
        error=" ".join(filter(None, map(request.args.get, ("error", "error_description")))),
    )
    try:
        return page(await _accounts().called_back(answer, _caller()))
    except ChatcoreError as error:
        return page(error.told, error.status, hint=error.told_hint or "")


def _accounts() -> Accounts:
    return current().plugins.accounts


def _caller() -> Principal | None:
    """Who is asking, where the browser says so: after a redirect most say nothing."""
    with suppress(Unauthenticated):
        return current_principal()
    return None


def _json(answer: object) -> Response:
    return Response(wire.dumps(answer), mimetype="application/json")
