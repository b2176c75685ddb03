"""`NamedTuple` as in `typing`, without importing that: the import takes longer than all else that a knock does.

It does not compile each annotation either, which takes a signed knock 2 ms.
"""

from __future__ import annotations

from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple
else:

    class _Fields(type):
        """Makes a named tuple of each class whose base is `NamedTuple`, from the annotations in its body."""

        def __new__(cls, name, bases, body):
            if not bases:
                return super().__new__(cls, name, bases, body)
            fields = tuple(body.pop("__annotations__", ()))
            defaults = [body.pop(field) for field in fields if field in body]
            made = namedtuple(name, fields, defaults=defaults)
            return type(name, (made,), {"__slots__": (), **body})

    class NamedTuple(metaclass=_Fields):
        """Base of named tuples."""
