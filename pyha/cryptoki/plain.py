"""Dataclasses that are quick to make: the part of the standard library's `dataclasses` that is used inside the module.

The standard library compiles up to eight functions for each class and imports `inspect` with all that hangs on it: half
of what C_Initialize took. Here one function is compiled for each class, its `__init__`; the others are alike for all.

Pure; knows nothing of PKCS#11. What a name means is said there: https://docs.python.org/3/library/dataclasses.html. The
standard library's `replace` takes instances of these classes too; to type checkers they are its own.
"""

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from dataclasses import dataclass, field, fields, replace
else:
    from operator import attrgetter

    _MISSING = object()

    class Field:
        """One field; `default_factory` makes the default where there is one. The other names are `dataclasses.Field`'s
        own."""

        __slots__ = ("_field_type", "compare", "default", "default_factory", "hash", "init", "metadata", "name", "repr")

        def __init__(self, default, default_factory, repr, hash, compare, metadata):
            self.name, self.init, self._field_type = "", True, None
            self.default, self.default_factory = default, default_factory
            self.repr, self.hash, self.compare, self.metadata = repr, hash, compare, metadata or {}

    def field(*, default=_MISSING, default_factory=_MISSING, repr=True, hash=None, compare=True, metadata=None):
        """What is special about a field."""
        return Field(default, default_factory, repr, hash, compare, metadata)

    def fields(kind):
        """The fields of a class or of an instance, in their order."""
        return tuple(kind.__dataclass_fields__.values())

    def replace(instance, /, **changes):
        """A new instance with some fields changed."""
        for name in instance.__dataclass_fields__:
            if name not in changes:
                changes[name] = getattr(instance, name)
        return instance.__class__(**changes)

    def dataclass(kind=None, /, *, frozen=False, slots=False, eq=True, unsafe_hash=False):
        """The class with the methods that follow from its annotated fields."""

        def decorate(kind):
            return _decorated(kind, frozen, slots, eq, unsafe_hash)

        return decorate if kind is None else decorate(kind)

    def _decorated(kind, frozen, slots, eq, unsafe_hash):
        own = _own_fields(kind)
        found = {}
        for base in kind.__mro__[-1:0:-1]:
            found.update(base.__dict__.get("__dataclass_fields__", {}))
        found.update(own)
        for name in own:
            if name in kind.__dict__:
                if found[name].default is _MISSING:
                    delattr(kind, name)
                else:
                    setattr(kind, name, found[name].default)
        made = {"__dataclass_fields__": found, "__match_args__": tuple(found), "__init__": _init(kind, found, frozen)}
        if "__repr__" not in kind.__dict__:
            made["__repr__"] = _repr_of([name for name, one in found.items() if one.repr])
        key = _key([name for name, one in found.items() if one.compare])
        if eq and "__eq__" not in kind.__dict__:
            made["__eq__"] = _eq_of(key)
        if "__hash__" not in kind.__dict__ or kind.__dict__["__hash__"] is None:
            if unsafe_hash or (eq and frozen):
                hashed = [name for name, one in found.items() if (one.compare if one.hash is None else one.hash)]
                made["__hash__"] = _hash_of(_key(hashed))
            elif eq:
                made["__hash__"] = None
        if frozen:
            made["__setattr__"], made["__delattr__"] = _refuse_to_set, _refuse_to_delete
        if not slots:
            for name, value in made.items():
                setattr(kind, name, value)
            return kind
        # Slots can only be given to a class when it is made.
        inside = {name: value for name, value in kind.__dict__.items() if name not in own}
        inside.pop("__dict__", None)
        inside.pop("__weakref__", None)
        inside.update(made)
        inside["__slots__"] = tuple(own)
        slotted = type(kind)(kind.__name__, kind.__bases__, inside)
        slotted.__qualname__ = kind.__qualname__
        return slotted

    def _own_fields(kind):
        own = {}
        for name, annotation in kind.__annotations__.items():
            if getattr(annotation, "__origin__", None) is ClassVar or annotation is ClassVar:
                continue
            default = kind.__dict__.get(name, _MISSING)
            one = default if isinstance(default, Field) else field(default=default)
            one.name = name
            own[name] = one
        return own

    def _init(kind, found, frozen):
        given, lines = [], []
        # Names that no field has: one called `put`, say, would hide ours.
        names = {"__missing": _MISSING, "__put": object.__setattr__}
        for name, one in found.items():
            value = name
            if one.default_factory is not _MISSING:
                names[f"__make_{name}"] = one.default_factory
                given.append(f"{name}=__missing")
                value = f"__make_{name}() if {name} is __missing else {name}"
            elif one.default is not _MISSING:
                names[f"__default_{name}"] = one.default
                given.append(f"{name}=__default_{name}")
            else:
                given.append(name)
            lines.append(f" __put(self, {name!r}, {value})" if frozen else f" self.{name} = {value}")
        exec("\n".join([f"def __init__({', '.join(['self', *given])}):", *lines, " return None"]), names)
        init = names["__init__"]
        init.__qualname__ = f"{kind.__qualname__}.__init__"
        return init

    def _key(names):
        return attrgetter(*names) if names else lambda instance: ()

    def _eq_of(key):
        def __eq__(self, other):
            return key(self) == key(other) if other.__class__ is self.__class__ else NotImplemented

        return __eq__

    def _hash_of(key):
        return lambda self: hash(key(self))

    def _repr_of(names):
        def __repr__(self):
            return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

        return __repr__

    def _refuse_to_set(self, name, value):
        raise AttributeError(f"cannot assign to field {name!r}")

    def _refuse_to_delete(self, name):
        raise AttributeError(f"cannot delete field {name!r}")


__all__ = ["dataclass", "field", "fields", "replace"]
