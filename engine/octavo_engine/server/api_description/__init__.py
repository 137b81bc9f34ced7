"""The API described by itself: /openapi.json and the HTML of /docs, without anything from elsewhere.

`operations` says which body and which answer a handler has; `document` makes OpenAPI 3.1 of these and of the routes.
"""
