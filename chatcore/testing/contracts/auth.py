"""The contract of an authenticator."""

# ruff: noqa: S101
# The contracts speak in assertions.

import asyncio

import attrs
import pytest

from chatcore.errors import Unauthenticated
from chatcore.plugins.fit import misfit
from chatcore.protocols import Authenticator, Credentials
from chatcore.types import Principal

_GARBAGE = (
    "",
    " ",
    "Bearer",
    "Bearer ",
    "Bearer  two words",
    "Bearer \x00\xff",
    "bearer " + "x" * 100_000,
    "Basic !!!",
    "Basic " + "A" * 4097,
    "=;,\"'\\",
    "ünïcödé \N{SNOWMAN}",
    "%s%n{0}",
)
_HEADERS = ("authorization", "cookie", "x-api-key", "x-forwarded-user", "sec-websocket-protocol")


@pytest.mark.asyncio
class AuthenticatorContract:
    """What every authenticator keeps. A subclass gives `authenticator`, and credentials that are `right` and `wrong`:

        class TestMine(AuthenticatorContract):
            @pytest.fixture
            def authenticator(self): ...
            @pytest.fixture
            def right(self):
                return Credentials({"authorization": "Bearer open-sesame"})
            @pytest.fixture
            def wrong(self):
                return Credentials({"authorization": "Bearer open-barley"})

    `wrong` is of the authenticator's kind. Without these two the rules about them are skipped.
    """

    @pytest.fixture
    def authenticator(self) -> Authenticator:
        """The authenticator to test."""
        raise NotImplementedError("write a fixture 'authenticator' that gives the authenticator to test")

    @pytest.fixture
    def right(self) -> Credentials:
        """Credentials that let somebody in."""
        pytest.skip("there is no fixture 'right' with credentials that let somebody in")

    @pytest.fixture
    def wrong(self) -> Credentials:
        """Credentials of the authenticator's kind that let nobody in."""
        pytest.skip("there is no fixture 'wrong' with credentials that let nobody in")

    async def test_it_is_an_authenticator(self, authenticator: Authenticator) -> None:
        """It has every member of `Authenticator`, and a name."""
        assert not (wrong := misfit(authenticator, Authenticator)), wrong
        assert authenticator.name, "its name is empty"

    @pytest.mark.parametrize(
        "headers", [{}, {"authorization": "Chatcore-Contract abc"}, {"cookie": "chatcore_contract=1"}], ids=str
    )
    async def test_foreign_credentials_are_left_to_others(
        self, authenticator: Authenticator, headers: dict[str, str]
    ) -> None:
        """Credentials of another kind, or none at all, give None, so that the next one is asked."""
        for remote in (None, "127.0.0.1"):
            principal = await authenticator.authenticate(Credentials(headers, remote))
            assert principal is None, f"{headers} let in {principal}"

    async def test_right_credentials_give_a_principal(self, authenticator: Authenticator, right: Credentials) -> None:
        """The right credentials give a principal with an id, the same every time, also to several who ask at once."""
        first, *others = await asyncio.gather(*(authenticator.authenticate(right) for _ in range(4)))
        assert isinstance(first, Principal), f"the right credentials gave {first!r}, wanted a Principal"
        assert first.id, "the principal's id is empty"
        assert isinstance(first.scopes, frozenset), f"its scopes are {first.scopes!r}, wanted a frozenset"
        assert all(other == first for other in others), "the same credentials give different principals"

    async def test_wrong_credentials_are_refused(self, authenticator: Authenticator, wrong: Credentials) -> None:
        """Wrong ones raise Unauthenticated, every time, and the text does not repeat what was sent."""
        for _ in range(2):
            with pytest.raises(Unauthenticated) as refused:
                await authenticator.authenticate(wrong)
        secrets = [word for value in wrong.headers.values() for word in value.split() if len(word) > len("Bearer")]
        said = f"{refused.value.message} {refused.value.hint}"
        assert not [word for word in secrets if word in said], "the refusal repeats the credentials"

    async def test_the_case_of_the_scheme_does_not_matter(
        self, authenticator: Authenticator, right: Credentials
    ) -> None:
        """`bearer`, `Bearer` and `BEARER` are the same (RFC 9110, 11.1)."""
        scheme, _, rest = right.headers.get("authorization", "").partition(" ")
        if not rest:
            return
        wanted = await authenticator.authenticate(right)
        for written in (scheme.lower(), scheme.upper(), scheme.capitalize()):
            headers = {**right.headers, "authorization": f"{written} {rest}"}
            got = await authenticator.authenticate(attrs.evolve(right, headers=headers))
            assert got == wanted, f"with {written!r} it gave {got!r}, wanted {wanted!r}"

    async def test_right_credentials_of_somebody_else_do_not_help(
        self, authenticator: Authenticator, right: Credentials, wrong: Credentials
    ) -> None:
        """What is refused stays refused after somebody was let in, and the other way round."""
        for _ in range(2):
            assert await authenticator.authenticate(right) is not None
            with pytest.raises(Unauthenticated):
                await authenticator.authenticate(wrong)

    @pytest.mark.parametrize("garbage", _GARBAGE, ids=lambda garbage: ascii(garbage[:20]))
    async def test_garbage_breaks_nothing(self, authenticator: Authenticator, garbage: str) -> None:
        """Any text in a header gives an answer or Unauthenticated: everybody can send one."""
        for header in _HEADERS:
            try:
                answer = await authenticator.authenticate(Credentials({header: garbage}, "192.0.2.1"))
            except Unauthenticated:
                continue
            except Exception as error:  # noqa: BLE001  that is the rule
                pytest.fail(f"{header}: {garbage[:40]!r} raised {type(error).__name__}: {error}")
            assert answer is None or isinstance(answer, Principal), f"{header} gave {answer!r}"
