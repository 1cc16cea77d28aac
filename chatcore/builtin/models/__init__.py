"""The models of all providers, to be searched and filtered (contract §1.3)."""

from collections.abc import Iterable, Mapping

import attrs
from attrs.validators import max_len
from quart import Blueprint, Response

from chatcore import wire
from chatcore.access import authenticated
from chatcore.builtin.models.catalogue import Catalogue, Catalogues
from chatcore.builtin.models.facets import Facets, Property
from chatcore.builtin.models.filters import parse
from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.openapi import describe
from chatcore.requests import read_query
from chatcore.state import current
from chatcore.tools import JsonObject


@attrs.frozen(kw_only=True)
class MetadataQuery:
    """Of which models."""

    tools_only: bool = False


@attrs.frozen(kw_only=True)
class ModelsQuery(MetadataQuery):
    """Which models."""

    search: str = attrs.field(
        default="",
        validator=max_len(1000),
        metadata={"help": "Words, each of which must occur somewhere in the entry."},
    )
    filters: str = attrs.field(
        default="",
        validator=max_len(5000),
        metadata={"help": 'A JSON object like {"context_length": {"min": 32000}, "series": ["gpt"]}.'},
    )


@attrs.frozen(kw_only=True)
class Counts:
    """How many models there are in all, of the kind asked for, and in the answer.

    `errors` has the providers whose models are missing, and why.
    """

    total: int
    base_count: int
    count: int
    errors: Mapping[str, str]


@attrs.frozen(kw_only=True)
class ModelList:
    """Catalogue entries in OpenRouter's form, with fields added."""

    data: list[JsonObject]
    metadata: Counts


@attrs.frozen(kw_only=True)
class Metadata:
    """What the catalogue consists of."""

    total: int
    base_count: int
    properties: tuple[Property, ...]
    facets: Facets


class Models(Plugin[NoSettings]):
    """Lists the models of all providers, to be searched and filtered."""

    @hookimpl
    def register_routes(self) -> Iterable[Blueprint]:
        yield _routes(Catalogues())


def _routes(catalogues: Catalogues) -> Blueprint:
    routes = Blueprint("models", __name__, url_prefix="/api/models")

    @routes.get("")
    @describe(summary="The models of all providers", query=ModelsQuery, answer=ModelList, errors=(400, 502))
    @authenticated
    async def models() -> Response:
        """A provider that fails is named in `metadata.errors`. Prices are US dollars per token; null is not known."""
        query = read_query(ModelsQuery)
        filters = parse(query.filters)
        catalogue, errors = await catalogues.read(current().registry.providers.values())
        base = _base(catalogue, query)
        data = base.select(query.search, filters)
        counts = Counts(total=len(catalogue.entries), base_count=len(base.entries), count=len(data), errors=errors)
        return _json(ModelList(data=data, metadata=counts))

    @routes.get("/metadata")
    @describe(summary="What models can be filtered by", query=MetadataQuery, answer=Metadata, errors=(502,))
    @authenticated
    async def metadata() -> Response:
        query = read_query(MetadataQuery)
        catalogue, _ = await catalogues.read(current().registry.providers.values())
        base = _base(catalogue, query)
        return _json(
            Metadata(
                total=len(catalogue.entries),
                base_count=len(base.entries),
                properties=base.properties,
                facets=base.facets,
            )
        )

    return routes


def _base(catalogue: Catalogue, query: MetadataQuery) -> Catalogue:
    return catalogue.with_tools if query.tools_only else catalogue


def _json(answer: ModelList | Metadata) -> Response:
    return Response(wire.dumps(answer), mimetype="application/json")
