"""/openapi.json says what is served, and takes what is taken."""

from __future__ import annotations

import re

from tunesmith.serving.routes import ROUTES


def test_every_route_stands_in_it(tiny):
    page = tiny.http.get("/openapi.json").json()
    told = {(method.upper(), path) for path, ops in page["paths"].items() for method in ops}
    assert told == {(r.method, re.sub(r":\w+}", "}", r.path)) for r in ROUTES}
    assert page["openapi"].startswith("3.1")


def test_every_reference_leads_somewhere(tiny):
    text = tiny.http.get("/openapi.json").text
    schemas = tiny.http.get("/openapi.json").json()["components"]["schemas"]
    found = set(re.findall(r'"#/components/schemas/(\w+)"', text))
    assert found
    assert found <= set(schemas)


def test_bodies_take_no_unknown_fields(tiny):
    schemas = tiny.http.get("/openapi.json").json()["components"]["schemas"]
    for route in ROUTES:
        if route.takes is not None:
            assert schemas[route.takes.__name__]["additionalProperties"] is False


def test_the_page_shows_what_the_document_has(tiny):
    page = tiny.http.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert 'fetch("/openapi.json"' in page.text
