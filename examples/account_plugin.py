"""An account with another service, in one file: each person signs in to GitHub, and the model can see their issues.

Register an OAuth app at https://github.com/settings/developers, with the call-back URL
`http://127.0.0.1:8000/api/accounts/callback` (or your `public_url` and that path), and give the server what it says:

    GITHUB_CLIENT_ID=… GITHUB_CLIENT_SECRET=… chatcore serve --plugins-dir examples

chatcore does the sign-in, keeps the token, encrypted, and refreshes it. Without the two settings the plugin is off.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from chatcore.errors import PluginOff, ToolFailed
from chatcore.hooks import Plugin, hookimpl
from chatcore.http import failures, make_client
from chatcore.protocols import Account, OAuth
from chatcore.secrets import Secret
from chatcore.settings import option
from chatcore.tools import Invocation, Tool
from chatcore.types import Principal


@attrs.frozen
class Settings:
    """What can be set under `[plugins.account_plugin]` in chatcore.toml."""

    client_id: str | None = option(None, env="GITHUB_CLIENT_ID", help="The OAuth app's id.")
    client_secret: Secret | None = option(None, env="GITHUB_CLIENT_SECRET", help="The OAuth app's secret.")
    url: str = option("https://github.com", help="Where people sign in; that of a server of your own, if you have one.")
    api: str = option("https://api.github.com", help="Where its API is.")


class GitHub(Plugin[Settings]):
    """Lets the model see a person's issues on GitHub."""

    settings_class = Settings

    @hookimpl
    def register_accounts(self) -> Iterable[Account]:
        settings = self.settings
        if settings.client_id is None or settings.client_secret is None:
            raise PluginOff("set GITHUB_CLIENT_ID and GITHUB_CLIENT_SECRET to those of an OAuth app")
        sign_in = OAuth(
            authorize_url=f"{settings.url}/login/oauth/authorize",
            token_url=f"{settings.url}/login/oauth/access_token",
            client_id=settings.client_id,
            client_secret=settings.client_secret,
            secret_in_body=True,
            scopes=("repo",),
            subject=self._login,
        )
        yield Account(name="github", title="GitHub", sign_in=sign_in)

    @hookimpl
    def register_tools(self) -> Iterable[Tool]:
        yield Tool.of(self.github_issues, read_only=True)

    async def github_issues(self, invocation: Invocation) -> Sequence[str]:
        """List the open issues that are assigned to the user.

        Args:
            invocation: for whom; the model is not shown it.
        """
        principal, accounts = Principal(invocation.principal_id), self.context.host.accounts
        # Who is not signed in: that error's text tells the model, and the model its user.
        token = await accounts.token(principal, "github")
        status, issues = await self._get("/issues", token)
        if status == 401:  # taken back before its time
            status, issues = await self._get("/issues", await accounts.token(principal, "github", refused=token))
        if status != 200:
            raise ToolFailed(f"GitHub answers {status}")
        return [f"{issue['repository']['full_name']}#{issue['number']}: {issue['title']}" for issue in issues]

    async def _login(self, token: Secret) -> str:
        _, user = await self._get("/user", token)
        return str(user["login"])

    async def _get(self, path: str, token: Secret) -> tuple[int, Any]:
        headers = {"authorization": f"Bearer {token.reveal()}", "accept": "application/vnd.github+json"}
        try:
            async with await asyncio.to_thread(make_client, base_url=self.settings.api, headers=headers) as client:
                response = await client.get(path)
            return response.status_code, response.json()
        except failures() as error:
            raise ToolFailed(f"GitHub does not answer: {error}") from error
