"""Parsers, one module per kind of document; adding a module here is all that a new kind needs.

Such a module must have:

- `MEDIA_TYPES` and `SUFFIXES` (`.pdf`), tuples: what declares a document to be of the kind.
- `sniff(head)`: whether the first 4 KiB are of the kind and of no other, whatever they were declared as.
- `INLINE_BYTES`: up to which size a document is parsed in the server's own process. Beyond it is parsed in a
  process of its own; 0 for whatever has code that a hostile document could break or exhaust.
- `parse(source)`: the text and its parts. It raises `Unreadable` with a message for whoever sent the
  document; any other exception means that the document is broken. Heavy imports happen inside it.
"""
