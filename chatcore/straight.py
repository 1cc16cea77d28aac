"""An httpx client without what nobody here wants. Imported when the first client is made, see `http.py`."""

from collections.abc import Mapping
from typing import Any

import httpx

_REMEMBERED = 100  # addresses, and headers


class StraightClient(httpx.AsyncClient):
    """Hands a request to its transport as it is.

    What httpx does around that, for redirects, cookies and sign-in, takes longer than the request itself; and it puts
    each address and all headers together anew, for which this client has a memory.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport, **options: Any) -> None:
        super().__init__(transport=transport, **options)
        self._way_out = transport
        self._addresses: dict[str, httpx.URL] = {}
        self._headers_of: dict[tuple[tuple[str, str], ...], httpx.Headers] = {}

    def build_request(
        self, method: str, url: httpx.URL | str, *, headers: Any = None, content: Any = None, **options: Any
    ) -> httpx.Request:
        """As of any client. Repeated requests to one path with nothing but headers and content are made quickly."""
        other = any(option is not None for option in options.values())
        plain = isinstance(headers, Mapping) and isinstance(content, bytes) and not other
        known = self._addresses.get(str(url)) if plain else None
        if known is None:
            request = super().build_request(method, url, headers=headers, content=content, **options)
            if plain and len(self._addresses) < _REMEMBERED:
                self._addresses[str(url)] = request.url
            return request
        extensions = {"timeout": self.timeout.as_dict()}
        request = httpx.Request(
            method, known, headers=self._whole(headers), stream=httpx.ByteStream(content), extensions=extensions
        )
        request.read()
        return request

    def _whole(self, headers: Mapping[str, str]) -> httpx.Headers:
        """The headers of a request, with those that every request has."""
        key = tuple(headers.items())
        if (known := self._headers_of.get(key)) is None:
            known = httpx.Headers({**self.headers, **{name.lower(): value for name, value in headers.items()}})
            if len(self._headers_of) < _REMEMBERED:
                self._headers_of[key] = known
        return known

    async def send(self, request: httpx.Request, *, stream: bool = False, **options: Any) -> httpx.Response:
        """As of a client without redirects, cookies and sign-in. `options` are for those."""
        response = await self._way_out.handle_async_request(request)
        response.request = request
        if not stream:
            try:
                await response.aread()
            finally:
                await response.aclose()
        return response
