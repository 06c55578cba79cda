"""Places where an event may keep its type, time, ids and payload, cached by the shape of the event.

Events of one bus look alike. The shape is the class with the names of the fields. The first event of a shape decides
which places are read; later events are not asked for fields that they lack.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import itemgetter
from types import MappingProxyType
from typing import Any

from spanbus._reading.shape import (
    Getter,
    getter,
    has_attribute,
    is_other_mapping,
    mapping_of,
    text_of,
)
from spanbus._reading.spelling import key_of

TYPE_KEYS = ("event_type", "type", "topic", "kind")
"""Fields that hold the type of an event, most reliable first."""
NAME_KEYS = (
    "name",
    "event",
    "event_name",
    "detail_type",
    "message_type",
    "event_type_value",
    "__typename",
    "object_kind",
)
_CHANNELS = ("topic", "channel", "queue", "routing_key", "stream", "topic_arn")
_ENCLOSING = ("payload", "data", "value", "body", "message", "detail", "event", "dagster_event")
TIMES = (
    "timestamp",
    "time",
    "ts",
    "at",
    "created_at",
    "event_created_at",
    "occurred_at",
    "emitted_at",
    "published_at",
    "event_time",
)
_SINGLE = ("metadata", "id")
_IDENTITY_KEYS = (
    "at_ns run_id runid phase attempt traceparent tracestate meta context headers header".split()
)
_NOTHING: Mapping[str, str] = MappingProxyType({})
_CACHED = 1_000
_MAX_FIELDS = 64

EVENT, METADATA, PAYLOAD = 0, 1, 2

Texts = tuple[object, object, object, object]
"""Values of an event's type, id, source and correlation id."""
Place = tuple[int, str]
"""Container (``EVENT``, ``METADATA`` or ``PAYLOAD``) and key."""


class Places:
    """The places to read for each property of an event, most reliable first."""

    __slots__ = (
        "correlation",
        "enclosing",
        "has_identity",
        "id",
        "is_channel_message",
        "kind",
        "metadata_plain",
        "name",
        "payload",
        "plain",
        "run",
        "source",
        "spelled",
        "spelled_in_metadata",
        "texts",
        "texts_in_metadata",
        "time",
        "type",
    )

    def __init__(
        self,
        type: tuple[Place, ...],  # noqa: A002 (named like the field)
        kind: tuple[str, ...],
        name: tuple[str, ...],
        payload: tuple[str, ...],
        time: tuple[Place, ...],
        run: tuple[str, ...],
        id: tuple[Place, ...],  # noqa: A002
        source: tuple[Place, ...],
        correlation: tuple[Place, ...],
        has_identity: bool,
        enclosing: tuple[str, ...],
        is_channel_message: bool,
    ) -> None:
        self.type = type
        self.kind = kind
        """Keys that hold the type of the event, or of the task that it is about."""
        self.name, self.payload, self.time = name, payload, time
        self.run = run
        """Keys of the run id in the metadata."""
        self.id, self.source, self.correlation = id, source, correlation
        self.has_identity = has_identity
        """The event has fields of our own events (``at_ns``, ``run_id``, ...) or headers."""
        self.enclosing = enclosing
        """Keys in which a broker's message wraps the event."""
        self.is_channel_message = is_channel_message
        """The event names its channel and has no type field."""
        self.spelled = self.spelled_in_metadata = _NOTHING
        """The event's spelling of each known key that it spells differently, such as ``eventType`` or ``run-id``."""
        self.plain = self.metadata_plain = False
        """All known keys are in the instance dictionary, none is a property or class attribute."""
        self.texts: Callable[[dict[str, object]], Texts] | None = None
        """Returns type, id, source and correlation id in one call, if one dictionary holds all four."""
        self.texts_in_metadata = False


class Keys:
    """Keys of a dialect, read before the default ones, and the cache of places by shape."""

    __slots__ = (
        "_all",
        "_all_of_metadata",
        "_cache",
        "_names",
        "ids",
        "known",
        "payloads",
        "payloads_spelled",
        "runs",
        "times",
        "types",
    )

    def __init__(
        self,
        types: tuple[str, ...] = (),
        payloads: tuple[str, ...] = (),
        times: tuple[str, ...] = (),
        ids: tuple[str, ...] = (),
        runs: tuple[str, ...] = (),
    ) -> None:
        self.types, self.payloads, self.times, self.ids, self.runs = (
            types,
            payloads,
            times,
            ids,
            runs,
        )
        self._all = self._places(_always, None)
        self._all_of_metadata = self._places(_always, _always)
        self._cache: dict[object, Places] = {}
        self._names = frozenset(
            key
            for one in (self._all_of_metadata, self._all)
            for key in (
                *_keys_of(one),
                *one.kind,
                *one.name,
                *one.payload,
                *one.enclosing,
                *_CHANNELS,
                *_SINGLE,
                *_IDENTITY_KEYS,
            )
        )
        self.known: frozenset[str] = frozenset()
        """Payload keys that the dialect reads."""
        self.payloads_spelled: dict[tuple[str, ...], tuple[str, ...] | None] = {}
        """By the keys of a payload: the keys as the dialect spells them, None where they are equal."""

    def look_up(self, event: object) -> tuple[Places, Getter, Getter, Texts]:
        """Return the places of an event, getters of its fields and of its metadata, and its texts."""
        fields = _instance_dict(event)
        if fields is None:
            return self._look_up_uncached(event)
        metadata = fields.get("metadata")
        inner = _instance_dict(metadata) if metadata is not None else None
        if metadata is None:
            shape: object = (type(event), *fields)
        elif inner is not None:
            shape = (type(event), *fields, type(metadata), *inner)
        else:
            return self._look_up_uncached(event)
        places = self._cache.get(shape)
        if places is None:
            if (
                len(self._cache) >= _CACHED
                or is_other_mapping(event)
                or is_other_mapping(metadata)
                or ("metadata" not in fields and has_attribute(event, "metadata"))
            ):
                return self._look_up_uncached(event)
            places = self._cache[shape] = self._discover(event, fields, metadata, inner)
        get = fields.get if places.plain else getter(event)
        if places.spelled:
            get = _spelled_getter(get, places.spelled)
        get_metadata = get
        if inner is not None:
            get_metadata = inner.get if places.metadata_plain else getter(metadata)
            if places.spelled_in_metadata:
                get_metadata = _spelled_getter(get_metadata, places.spelled_in_metadata)
        if places.texts is None:
            return places, get, get_metadata, _texts(places, get, get_metadata)
        holder = inner if inner is not None and places.texts_in_metadata else fields
        return places, get, get_metadata, places.texts(holder)

    def _look_up_uncached(self, event: object) -> tuple[Places, Getter, Getter, Texts]:
        get = getter(event)
        if other := self._spellings(mapping_of(event)):
            get = _spelled_getter(get, other)
        metadata = get("metadata")
        if metadata is None:
            return self._all, get, get, _texts(self._all, get, get)
        get_metadata = getter(metadata)
        if other := self._spellings(mapping_of(metadata)):
            get_metadata = _spelled_getter(get_metadata, other)
        places = self._all_of_metadata
        return places, get, get_metadata, _texts(places, get, get_metadata)

    def payload(self, payload: Mapping[str, object]) -> Mapping[str, object]:
        """Return the payload with its keys spelled as the dialect spells them."""
        if len(payload) > _MAX_FIELDS:
            return payload
        names = tuple(payload)
        if names in self.payloads_spelled:
            spelled = self.payloads_spelled[names]
        else:
            other = _alternative_spellings(names, self.known)
            as_written = {written: key for key, written in other.items()}
            spelled = tuple([as_written.get(key, key) for key in names]) if other else None
            if len(self.payloads_spelled) < _CACHED:
                self.payloads_spelled[names] = spelled
        if spelled is None:
            return payload
        return dict(zip(spelled, payload.values(), strict=False))

    def _spellings(self, fields: Mapping[str, object] | None) -> Mapping[str, str]:
        if not fields or len(fields) > _MAX_FIELDS:
            return _NOTHING
        return _alternative_spellings(tuple(fields), self._names)

    def _discover(
        self,
        event: object,
        fields: Mapping[str, object],
        metadata: object,
        inner: Mapping[str, object] | None,
    ) -> Places:
        names, spelled = self._names, self._spellings(fields)
        plain = not any(key not in fields and has_attribute(event, key) for key in names)

        def has(key: str) -> bool:
            return key in fields or key in spelled or has_attribute(event, key)

        if inner is None:
            places = self._places(has, None)
            places.spelled, places.plain = spelled, plain
            _set_text_getter(places, fields, {})
            return places
        spelled_inside = self._spellings(inner)

        def has_inner(key: str) -> bool:
            return key in inner or key in spelled_inside or has_attribute(metadata, key)

        declared = {*(mapping_of(metadata) or ()), *spelled_inside}
        places = self._places(has, has_inner)
        places.run = tuple([key for key in places.run if key in declared])
        places.spelled, places.plain = spelled, plain
        places.spelled_in_metadata = spelled_inside
        places.metadata_plain = not any(
            key not in inner and has_attribute(metadata, key) for key in names
        )
        _set_text_getter(places, fields, inner)
        return places

    def _places(
        self, has: Callable[[str], bool], has_inner: Callable[[str], bool] | None
    ) -> Places:
        def both(*keys: str) -> tuple[Place, ...]:
            found: list[Place] = []
            for key in keys:
                if has_inner is not None and has_inner(key):
                    found.append((METADATA, key))
                if has(key):
                    found.append((EVENT, key))
            return tuple(found)

        times: list[Place] = []
        for key in self.times:
            times += [(PAYLOAD, key), *both(key)]
        times.append((PAYLOAD, "timestamp"))
        if has_inner is not None and has_inner("timestamp"):
            times.append((METADATA, "timestamp"))
        elif has_inner is None and has("timestamp"):
            times.append((EVENT, "timestamp"))
        times += [(EVENT, key) for key in ("metadata_timestamp", *TIMES) if has(key)]
        if has_inner is not None:
            times += [(METADATA, key) for key in TIMES if has_inner(key)]
        payloads = (*self.payloads, "payload", "data")
        if has("detail_type") and has_inner is not _always and has is not _always:
            payloads = (*payloads, "detail")
        return Places(
            both(*self.types, "event_type"),
            tuple([key for key in TYPE_KEYS[1:] if has(key)]),
            tuple([key for key in NAME_KEYS if has(key)]),
            tuple([key for key in payloads if has(key)]),
            tuple(times),
            self.runs if has_inner is not None else (),
            both(*self.ids, "event_id"),
            both("source"),
            both("correlation_id"),
            bool(both("headers")) or any(has(key) for key in _IDENTITY_KEYS),
            tuple([key for key in _ENCLOSING if has(key)]),
            not any(has(key) for key in ("event_type", "type", "kind"))
            and any(has(key) for key in _CHANNELS),
        )


def _texts(places: Places, get: Getter, get_metadata: Getter) -> Texts:
    return (
        _first(places.type, get, get_metadata),
        _first(places.id, get, get_metadata) if places.id else None,
        _first(places.source, get, get_metadata) if places.source else None,
        _first(places.correlation, get, get_metadata) if places.correlation else None,
    )


def _first(places: tuple[Place, ...], get: Getter, get_metadata: Getter) -> str | None:
    """Return the first non-empty text of these places."""
    for where, key in places:
        value = (get_metadata if where == METADATA else get)(key)
        if value is not None and (text := value if type(value) is str else text_of(value)):
            return text
    return None


def _set_text_getter(
    places: Places, fields: Mapping[str, object], inner: Mapping[str, object]
) -> None:
    """Set ``places.texts`` if each text has exactly one place and one dictionary holds all of them."""
    several = (places.type, places.id, places.source, places.correlation)
    found = [one[0] for one in several if len(one) == 1]
    holders = {where for where, _ in found}
    if len(found) < len(several) or len(holders) > 1:
        return
    inside = METADATA in holders
    if all(key in (inner if inside else fields) for _, key in found):
        places.texts = itemgetter(*[key for _, key in found])
        places.texts_in_metadata = inside


def _keys_of(places: Places) -> list[str]:
    several = (places.type, places.time, places.id, places.source, places.correlation)
    return [key for one in several for _, key in one]


def _instance_dict(thing: object) -> dict[str, object] | None:
    """Return the instance dictionary, or the dictionary itself; None if there is none or it has too many fields."""
    own: Any = thing
    if type(thing) is not dict:
        try:
            own = thing.__dict__
        except AttributeError:
            return None
    return own if type(own) is dict and len(own) <= _MAX_FIELDS else None  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - a cast costs a call


def _alternative_spellings(names: tuple[str, ...], known: frozenset[str]) -> Mapping[str, str]:
    """Map each known key that is missing to the name that is another spelling of it."""
    found: dict[str, str] = {}
    for name in names:
        if isinstance(name, str) and name not in known:  # pyright: ignore[reportUnnecessaryIsInstance] - foreign mappings
            key = key_of(name)
            if key in known and key not in names:
                found.setdefault(key, name)
    return found


def _spelled_getter(get: Getter, spelled: Mapping[str, str]) -> Getter:
    """Return a getter that takes known keys and looks up the event's spelling of them."""

    def found(name: str) -> object:
        return get(spelled.get(name, name))

    return found


def _always(key: str) -> bool:
    del key
    return True
