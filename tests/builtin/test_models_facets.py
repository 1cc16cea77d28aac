"""What is said about all models of a catalogue."""

from chatcore.builtin.models.catalogue import enrich
from chatcore.builtin.models.facets import Property, Range, facets_of, properties_of
from chatcore.types import Model


def test_property_counts_the_models_that_have_it():
    """Once a model, however often it occurs in it."""
    (found,) = properties_of([{"a": 1}, {"a": 2}, {}])
    assert found == Property(path="a", count=2, types=("number",), min=1, max=2)
    assert [(p.path, p.count) for p in properties_of([{"a": [{"b": 1}, {"b": 2}]}])] == [("a", 1), ("a.b", 1)]


def test_every_path_is_listed_in_order():
    """Objects and what is in them, through lists."""
    entries = [{"z": 1, "pricing": {"prompt": "0"}}, {"endpoints": [{"tag": "a"}]}]
    assert [p.path for p in properties_of(entries)] == ["endpoints", "endpoints.tag", "pricing", "pricing.prompt", "z"]


def test_types_are_those_of_json():
    """All that occur, sorted; those of a list's items apart."""
    (mixed,) = properties_of([{"a": value} for value in (1, 2.5, "x", None, True, [])] + [{"a": {}}])
    assert mixed.types == ("array", "boolean", "null", "number", "object", "string")
    (items,) = properties_of([{"a": ["x", 5, None]}])
    assert (items.types, items.item_types) == (("array",), ("null", "number", "string"))


def test_examples_are_the_first_five_strings():
    """Sorted, each once, those in lists too."""
    (found,) = properties_of([{"a": letter} for letter in "gfedcba"] + [{"a": ["a", "0"]}])
    assert found.examples == ("0", "a", "b", "c", "d")


def test_numbers_have_a_range_and_booleans_their_values():
    """True is no number, "5" is none either."""
    (found,) = properties_of([{"a": value} for value in (3, -1.5, True, "5", [7])])
    assert (found.min, found.max, found.boolean_values, found.examples) == (-1.5, 7, (True,), ("5",))
    (found,) = properties_of([{"a": True}, {"a": False}, {"a": 1}, {"a": 0}])
    assert (found.boolean_values, found.min, found.max) == ((False, True), 0, 1)


def test_empty_catalogue_has_no_properties():
    """And its ranges are open."""
    assert properties_of([]) == ()
    facets = facets_of([])
    assert (facets.series, facets.context_length) == ((), Range(None, None))


def test_facets_are_what_occurs():
    """Every label once, sorted; ranges leave out what is not known."""
    infos = [
        {"context_length": 8192, "supported_parameters": ["tools", "Seed"], "pricing": {"prompt": "0.00003"}},
        {"context_length": 4096, "architecture": {"input_modalities": ["image", "text"]}, "pricing": {"prompt": "-1"}},
    ]
    facets = facets_of([enrich(Model(f"openai/{n}", "M", info=info)) for n, info in enumerate(infos)])
    assert facets.input_modalities == ("image", "text")
    assert facets.output_modalities == ("text",)
    assert facets.supported_parameters == ("Seed", "tools")
    assert facets.series == ("0", "1", "M", "Other", "gpt", "openai", "openai/0", "openai/1")
    assert facets.series_normalized == ("0", "1", "gpt", "m", "openai", "openai/0", "openai/1", "other")
    assert facets.context_length == Range(4096, 8192)
    assert facets.prompt_price_per_million == Range(30, 30)
