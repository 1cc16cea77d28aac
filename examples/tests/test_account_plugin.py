"""The account of `account_plugin.py`."""

from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import pytest
import pytest_asyncio

from chatcore.errors import PluginError
from chatcore.protocols import ToolSource
from chatcore.testing.contracts import ToolSourceContract
from chatcore.testing.scripted import ScriptedProvider, call, text
from chatcore.testing.upstream import FakeUpstream, Reply

ISSUES = [{"number": 7, "title": "It rains", "repository": {"full_name": "ada/roof"}}]


@pytest.fixture
def github(load_example):
    return load_example("account_plugin")


@pytest_asyncio.fixture
async def service():
    """GitHub, as far as the plugin sees it."""
    async with FakeUpstream(base="") as upstream:
        upstream.route("/login/oauth/access_token", Reply.json({"access_token": "planted", "token_type": "bearer"}))
        upstream.route("/user", Reply.json({"login": "ada"}))
        upstream.route("/issues", Reply.json(ISSUES))
        yield upstream


@pytest.fixture
def settings(service):
    return {"client_id": "id", "client_secret": "secret", "url": service.url, "api": service.url}


class TestGitHubTools(ToolSourceContract):
    """What every tool keeps, also while nobody is signed in."""

    @pytest_asyncio.fixture
    async def source(self, make_chat, github, settings):
        chat = await make_chat(github, config=CONFIG, **settings)
        [tool] = chat.app.extensions["chatcore"].registry.tools().values()
        source: ToolSource = SimpleNamespace(name="github", tools=lambda: [tool])
        return source


CONFIG = {"public_url": "https://chat.example.org"}


async def sign_in(chat):
    """What a browser does."""
    url = (await chat.client.post("/api/accounts/github/sign-in")).json()["url"]
    state = parse_qs(urlsplit(url).query)["state"]
    return await chat.client.get("/api/accounts/callback", params={"code": "c", "state": state})


async def test_the_model_sees_the_issues_of_who_has_signed_in(make_chat, github, settings, service):
    """Until then it is told who can do something about it; the token goes to GitHub and nowhere else."""
    model = ScriptedProvider([call("github_issues")], [text("Sign in.")], [call("github_issues")], [text("One.")])
    chat = await make_chat(github, provider=model, config=CONFIG, **settings)
    [told] = (await chat.say("What is to do?")).results
    assert "sign in to GitHub" in told
    assert "connected as ada" in (await sign_in(chat)).text
    assert (await chat.say("And now?")).results == ['["ada/roof#7: It rains"]']
    asked = service.requests[-1]
    assert (asked.path, asked.headers["authorization"]) == ("/issues", "Bearer planted")


async def test_a_token_that_was_taken_back_means_to_sign_in_again(make_chat, github, settings, service):
    """GitHub's tokens have no end of their own, and nothing to refresh them with."""
    model = ScriptedProvider([call("github_issues")], [text("Sign in.")])
    chat = await make_chat(github, provider=model, config=CONFIG, **settings)
    await sign_in(chat)
    service.route("/issues", Reply.json({"message": "Bad credentials"}, status=401))
    [told] = (await chat.say("What is to do?")).results
    assert "sign in to GitHub again" in told
    [account] = (await chat.client.get("/api/accounts")).json()["accounts"]
    assert (account["state"], account["subject"]) == ("sign_in_again", "ada")


@pytest.mark.parametrize(
    ("reply", "told"), [(Reply.json({}, status=503), "GitHub answers 503"), (Reply(hang_up=True), "does not answer")]
)
async def test_a_failing_service_is_told_to_the_model(make_chat, github, settings, service, reply, told):
    """The turn goes on."""
    chat = await make_chat(github, provider=ScriptedProvider([call("github_issues")]), config=CONFIG, **settings)
    await sign_in(chat)
    service.route("/issues", reply)
    assert told in (await chat.say("What is to do?")).results[0]


async def test_without_an_app_it_is_off(make_chat, github):
    """And says what to set."""
    with pytest.raises(PluginError, match="set GITHUB_CLIENT_ID"):
        await make_chat(github)
