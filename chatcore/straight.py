"""An httpx client without what nobody here wants. Imported when the first client is made, see `http.py`."""

from collections.abc import Mapping
from typing import Any

import httpx


class StraightClient(httpx.AsyncClient):
    """Hands a request to its transport as it is.

    What httpx does around that, for redirects, cookies and sign-in, takes longer than the request itself; and it puts
    each address together anew, for which this client has a memory.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport, **options: Any) -> None:
        super().__init__(transport=transport, **options)
        self._way_out = transport
        self._addresses: dict[str, httpx.URL] = {}
        self._always = dict(self.headers)

    def build_request(
        self, method: str, url: httpx.URL | str, *, headers: Any = None, content: Any = None, **options: Any
    ) -> httpx.Request:
        """As of any client. Repeated requests to one path with nothing but headers and content are made quickly."""
        plain = isinstance(headers, Mapping) and not any(value is not None for value in options.values())
        known = self._addresses.get(str(url)) if plain else None
        if known is None:
            request = super().build_request(method, url, headers=headers, content=content, **options)
            if plain and len(self._addresses) < 100:
                self._addresses[str(url)] = request.url
            return request
        own = {name.lower(): value for name, value in headers.items()}
        return httpx.Request(
            method,
            known,
            headers={**self._always, **own},
            content=content,
            extensions={"timeout": self.timeout.as_dict()},
        )

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
