"""Writes the API's OpenAPI description from the types and limits with which ingest checks bodies.

    python -m tools.openapi

writes `functions/docs/openapi.json`, which the docs function serves. A test fails where that file is not
what would be written.

`models` makes schemas of the types and adds what a type cannot say. `examples` are requests that ingest
accepts and answers that it gives, taken from the functions that give them. `document` has the routes: to add
one is to add an entry to `PATHS`.
"""
