"""What an application declares, as documents: AsyncAPI, and TypeScript types.

model.py       the declarations, read from an application, in a stable order
schemas.py     their types as JSON Schemas
protocol.py    the protocol's own messages
asyncapi.py    an AsyncAPI 3.0 document
bindings.py    how its WebSocket and its event streams are asked for
typescript.py  TypeScript types for the JavaScript client
printer.py     a JSON Schema as a TypeScript type
text.py        JSON and YAML
"""
