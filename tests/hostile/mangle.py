"""Ways to spoil bytes, JSON values and files, drawn from a seeded generator."""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

#: Values of other kinds and sizes than a setting expects.
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    10**9,
    10**12,
    -(10**18),
    1e308,
    float("nan"),
    float("inf"),
    "",
    "none",
    "0",
    "../../../etc/passwd",
    "/etc/passwd",
    "a" * 5000,
    "(.*)*x",
    "((a+)+)+$",
    "\x00",
    "<script>alert(1)</script>",
    "](http://example.com) **x** | y",
    "{{ 7 * 7 }}",
    "!!python/object/apply:os.system ['true']",
    [],
    [None],
    ["0"],
    [[[]]],
    {},
    {"a": None},
    {"__class__": "os.system"},
)


def odd_value(rng: random.Random) -> Any:
    """One of [`ODD_VALUES`]."""
    return copy.deepcopy(rng.choice(ODD_VALUES))


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The paths of all values inside a JSON value, itself (the empty path) first."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(len(value)):
            yield from places(value[index], (*path, index))


def mangle_value(rng: random.Random, value: Any) -> Any:
    """A JSON value with one place of it replaced, removed, repeated, renamed or nested deeply."""
    value = copy.deepcopy(value)
    path = rng.choice(list(places(value)))
    if not path:
        return odd_value(rng)
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    key = path[-1]
    way = rng.choice(["replace", "replace", "replace", "remove", "rename", "nest", "exchange"])
    if way == "remove":
        del holder[key]
    elif way == "rename" and isinstance(holder, dict):
        holder[rng.choice([f"{key}x", "", "auto_map", "_target_"])] = holder.pop(key)
    elif way == "nest":
        holder[key] = nested(rng.choice([3, 60, 2000]), holder[key])
    elif way == "exchange":
        other = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
        holder[key], holder[other] = holder[other], holder[key]
    else:
        holder[key] = odd_value(rng)
    return value


def nested(depth: int, value: Any) -> Any:
    """`value` inside that many lists."""
    for _ in range(depth):
        value = [value]
    return value


def write_json_deep(path: Path, value: Any) -> None:
    """Write JSON however deep it is; Python's own writer recurses."""
    depth = 0
    try:
        path.write_text(json.dumps(value), encoding="utf-8")
    except RecursionError:
        while isinstance(value, list) and len(value) == 1:
            value, depth = value[0], depth + 1
        path.write_text("[" * (depth or 5000) + "]" * (depth or 5000), encoding="utf-8")


def mangle_bytes(rng: random.Random, data: bytes) -> bytes:
    """Bytes that are cut, flipped, repeated, replaced or put in another encoding."""
    ways: dict[str, Callable[[], bytes]] = {
        "cut": lambda: data[: rng.randrange(len(data) + 1)],
        "empty": lambda: b"",
        "flip": lambda: _flip(rng, data, rng.choice([1, 3, 50])),
        "insert": lambda: _insert(rng, data, rng.randbytes(rng.choice([1, 20, 1000]))),
        "double": lambda: data + data,
        "zeros": lambda: bytes(len(data)),
        "noise": lambda: rng.randbytes(len(data) or 10),
        "utf-16": lambda: data.decode("latin-1").encode("utf-16"),
        "null": lambda: b"null",
        "number": lambda: b"7",
        "deep": lambda: b"[" * 100_000 + b"]" * 100_000,
        "huge number": lambda: b"1" * 5000,
    }
    return ways[rng.choice(list(ways))]()


def _flip(rng: random.Random, data: bytes, count: int) -> bytes:
    changed = bytearray(data)
    for _ in range(min(count, len(data))):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _insert(rng: random.Random, data: bytes, more: bytes) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + more + data[place:]


def mangle_file(rng: random.Random, path: Path) -> str:
    """Spoil a file, or what is in its place; gives what was done, for messages."""
    ways = ["bytes"] * 4 + ["missing", "directory", "link", "fifo"]
    if path.suffix == ".json":
        ways += ["value"] * 8
    way = rng.choice(ways)
    if way == "value":
        write_json_deep(path, mangle_value(rng, json.loads(path.read_text(encoding="utf-8"))))
    elif way == "bytes":
        path.write_bytes(mangle_bytes(rng, path.read_bytes()))
    else:
        path.unlink()
        if way == "directory":
            path.mkdir()
        elif way == "link":
            path.symlink_to(rng.choice(["/dev/zero", "/etc/passwd", path.name, "nothing"]))
        elif way == "fifo":
            os.mkfifo(path)
    return f"{way} of {path.name}"
