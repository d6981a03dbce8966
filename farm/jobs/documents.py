"""Batch files as text: JSON as JSON parsers read it, and YAML by the core schema of YAML 1.2, both within bounds.

By that schema `no` is a word, `0123` is 123, and a date or `1:30` is text; YAML 1.1, which many libraries still read,
makes false, 83, a date and 90 of them. Explicit tags (`!!float`) are refused, and so are keys that are given twice.

Nesting, and what aliases stand for, are measured before anything is built, so that a file of a few bytes can neither
overflow the stack nor fill the memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from farm.errors import InvalidInput
from farm.jobs.spec import quoted

if TYPE_CHECKING:
    from yaml.events import Event

MAX_FILE_BYTES = 2 * 2**20
MAX_DEPTH = 100
MAX_WRITTEN_OUT = 16 * 2**20
"""Characters of a file with every alias replaced by what it stands for, in which a value counts for 8 more."""
_VALUE = 8

_TOO_DEEP = f"is nested more than {MAX_DEPTH} deep"
_TOO_MANY_DIGITS = "has a number with thousands of digits"
_UNQUOTED = ("mapping values are not allowed", "cannot start any token", "undefined alias", "did not find expected")
_QUOTES = 'text that begins with punctuation, or has ": " or " #" in it, needs quotes'

# https://yaml.org/spec/1.2.2/#103-core-schema, with the characters that each form can begin with.
_CORE_SCHEMA = (
    ("null", r"(?:~|null|Null|NULL|)", ["~", "n", "N", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)", list("tTfF")),
    ("int", r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)", list("-+0123456789")),
    (
        "float",
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),  # not in the schema, but people share defaults of their own by it
)


def parse(text: str, *, is_json: bool = False) -> Any:
    """The document in `text`: JSON, or YAML unless it `is_json`. Raises `InvalidInput` naming the line at fault."""
    if len(text.encode(errors="surrogatepass")) > MAX_FILE_BYTES:
        raise InvalidInput(f"is larger than {MAX_FILE_BYTES // 2**20} MiB")
    try:
        return _parse_json(text)
    except json.JSONDecodeError as error:
        not_json = InvalidInput(f"line {error.lineno}, column {error.colno}: {error.msg}, as JSON")
    if is_json:
        raise not_json
    try:
        return _parse_yaml(text)
    except InvalidInput:
        if _looks_like_json(text):
            raise not_json from None
        raise


def _looks_like_json(text: str) -> bool:
    """Whether YAML's complaints would be of no help to whoever wrote this. YAML may begin with `{` too."""
    return re.match(r'\s*[{\[][\s{\[]*"', text) is not None


def _parse_json(text: str) -> Any:
    try:
        document = json.loads(text, object_pairs_hook=_object, parse_int=_whole_number, parse_constant=_no_number)
    except RecursionError as error:
        raise InvalidInput(_TOO_DEEP) from error
    _refuse_deep(document)
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; of a name that is given twice, `json` itself would keep the last."""
    made: dict[str, Any] = {}
    for name, value in pairs:
        if name in made:
            raise InvalidInput(f"{quoted(name)} is there twice: as {quoted(made[name])} and as {quoted(value)}")
        made[name] = value
    return made


def _whole_number(digits: str) -> int:
    try:
        return int(digits)
    except ValueError as error:
        raise InvalidInput(_TOO_MANY_DIGITS) from error


def _no_number(name: str) -> Any:
    raise InvalidInput(f"has {name} as a number, which JSON does not allow")


def _refuse_deep(document: Any) -> None:
    level, depth = [document], 0
    while level:
        containers = [value for value in level if isinstance(value, (dict, list))]
        depth += bool(containers)
        if depth > MAX_DEPTH:
            raise InvalidInput(_TOO_DEEP)
        level = [part for value in containers for part in (value.values() if isinstance(value, dict) else value)]


def _parse_yaml(text: str) -> Any:
    import yaml
    from yaml.reader import ReaderError

    try:
        _examine(yaml.parse(text, Loader=_loader()))
        return yaml.load(text, Loader=_loader())  # noqa: S506 - it makes plain values alone
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = error.problem or error.context or "is not YAML"
        if "another document" in problem:
            raise InvalidInput(f"{where}a second document begins; only one is read", hint="leave out '---'") from error
        raise InvalidInput(f"{where}{problem}", hint=_mend(problem, _line_at(text, mark))) from error
    except ReaderError as error:
        line = text.encode(errors="surrogatepass")[: error.position].count(b"\n") + 1
        code = error.character if isinstance(error.character, int) else ord(error.character)
        raise InvalidInput(f"line {line}: has the character U+{code:04X}, which YAML forbids") from error
    except yaml.YAMLError as error:
        raise InvalidInput(f"is not YAML or JSON: {error}") from error


def _line_at(text: str, mark: Any) -> str:
    lines = text.splitlines()
    return lines[mark.line] if mark and mark.line < len(lines) else ""


def _mend(problem: str, line: str) -> str | None:
    """What mends the usual faults of YAML."""
    if "invalid Unicode character escape" in problem:
        return r'write the character itself, or such as "\U0001F98A"; pairs of \u are JSON'
    if "cannot start any token" in problem and line.lstrip(" ").startswith("\t"):
        return "YAML is indented with spaces, not tabs"
    return _QUOTES if any(words in problem for words in _UNQUOTED) else None


@cache
def _loader() -> Any:
    import yaml

    class CoreLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # whichever there is
        yaml_implicit_resolvers: Mapping[str, Any] = {}

        def construct_document(self, node: Any) -> Any:
            _keep_labels_as_written(node)
            return super().construct_document(node)

    for name, pattern, beginnings in _CORE_SCHEMA:
        CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{name}", re.compile(f"^{pattern}$"), beginnings)
    CoreLoader.add_constructor("tag:yaml.org,2002:int", lambda _, node: _core_int(node.value))
    CoreLoader.add_constructor("tag:yaml.org,2002:float", lambda _, node: _core_float(node.value))
    return CoreLoader


def _keep_labels_as_written(document: Any) -> None:
    """Labels are text: `007` is not 7 there, nor `1e3` a thousand."""
    import yaml

    waiting, known = [document], set()
    while waiting:
        node = waiting.pop()
        if id(node) in known or not isinstance(node, yaml.CollectionNode):
            continue
        known.add(id(node))  # an alias is the same node again
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
            continue
        waiting += [value for _, value in node.value]
        for text in (part for key, value in node.value for part in _parts_of_labels(key, value)):
            if text.tag in _WRITTEN_AS_TEXT:
                text.tag = "tag:yaml.org,2002:str"


def _parts_of_labels(key: Any, value: Any) -> Iterator[Any]:
    """The names and texts of labels, where a key is of labels: `labels`, or `labels.take`; a sweep lists several."""
    import yaml

    name = key.value if isinstance(key, yaml.ScalarNode) else ""
    several = value.value if isinstance(value, yaml.SequenceNode) else [value]
    if name == "labels":
        yield from (part for one in several if isinstance(one, yaml.MappingNode) for pair in one.value for part in pair)
    elif name.startswith("labels."):
        yield from several


_WRITTEN_AS_TEXT = frozenset(f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool"))


def _core_int(written: str) -> int:
    if written.startswith("0x"):
        return int(written, 16)
    if written.startswith("0o"):
        return int(written, 8)
    return _whole_number(written)


def _core_float(written: str) -> float:
    """Python leaves out the dot of `.inf` and `.nan`, and knows no other beginning with a dot and a letter."""
    return float(re.sub(r"\.(?=[a-z])", "", written.lower()))


@dataclass
class _Level:
    """A list or mapping that is being read; in a mapping, keys and values take turns.

    `size` and `height` (the levels in it, itself included) are those of what was read so far, written out.
    """

    is_mapping: bool
    anchor: str | None
    size: int = _VALUE
    height: int = 1
    keys: set[str] = field(default_factory=set)
    key_is_next: bool = True


def _examine(events: Iterable[Event]) -> None:
    """Refuse keys given twice, of which YAML keeps the last, and what would not fit onto the stack or into memory.

    Composing and merging (`<<`) recurse, and follow aliases of aliases, which double with each line. Reading events
    does neither, and the measures of what an alias stands for are known without following it.
    """
    from yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, MappingStartEvent, NodeEvent

    levels = [_Level(is_mapping=False, anchor=None)]
    anchored: dict[str, tuple[int, int]] = {}
    for event in events:
        if isinstance(event, NodeEvent) and levels[-1].is_mapping:
            _take_turn(levels[-1], event)
        if (tag := getattr(event, "tag", None)) is not None:
            raise InvalidInput(f"{_line(event)}has the tag {quoted(_short(tag))}", hint="leave it out")
        if isinstance(event, AliasEvent) and any(level.anchor == event.anchor for level in levels):
            raise InvalidInput(f"{_line(event)}{quoted(event.anchor)} contains itself")
        if isinstance(event, CollectionStartEvent):
            levels.append(_Level(isinstance(event, MappingStartEvent), event.anchor))
        ended = levels.pop() if isinstance(event, CollectionEndEvent) else None
        size, height = (ended.size, ended.height) if ended else _measures(event, anchored)
        if anchor := ended.anchor if ended else getattr(event, "anchor", None):
            anchored[anchor] = size, height
        levels[-1].size += size
        levels[-1].height = max(levels[-1].height, height + 1)
        if len(levels) - 1 + height > MAX_DEPTH:
            raise InvalidInput(f"{_line(event)}{_TOO_DEEP}")
        if levels[-1].size > MAX_WRITTEN_OUT:
            raise InvalidInput(f"{_line(event)}is too large with all its aliases written out")


def _short(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!")


def _measures(event: Event, anchored: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    """The size and height, written out, of the value that an event is; 0 where it is none, or none yet."""
    from yaml.events import AliasEvent, ScalarEvent

    if isinstance(event, AliasEvent):
        return anchored.get(event.anchor or "", (0, 0))  # one that stands for nothing is reported by the composer
    return (len(event.value) + _VALUE, 0) if isinstance(event, ScalarEvent) else (0, 0)


def _take_turn(mapping: _Level, event: Event) -> None:
    from yaml.events import ScalarEvent

    if mapping.key_is_next and isinstance(event, ScalarEvent):
        if event.value in mapping.keys:
            raise InvalidInput(f"{_line(event)}{event.value!r:.60} is there twice")
        mapping.keys.add(event.value)
    mapping.key_is_next = not mapping.key_is_next


def _line(event: Event) -> str:
    return f"line {event.start_mark.line + 1}: " if event.start_mark else ""
