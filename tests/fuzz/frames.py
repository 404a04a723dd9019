"""Hostile JSON: messages with keys dropped, doubled, retyped, nested, padded; bytes flipped, cut, joined. Data only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

LINE_LIMIT = 1 << 20
DEPTHS = (1, 40, 900, 960, 970, 975, 980, 985, 990, 995, 1000, 1100, 20_000)  # the parsers' limit is somewhere there

Pairs = list[tuple[str, str]]  # keys, and values as JSON text: a key may come twice


@dataclass(frozen=True)
class Frame:
    """Bytes for a socket, without the newline at their end, and how they were made."""

    kind: str
    data: bytes


# As JSON text: several of these no encoder would write.
EXTREMES = (
    *("0", "-1", "1", "2147483648", "9007199254740993"),
    *("9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809"),
    *("18446744073709551615", "18446744073709551616", "1" + "0" * 30, "-1" + "0" * 30, "1" * 4300, "1" * 5000),
    *("1.5", "-0.0", "1e308", "-1e308", "1e309", "5e-324", "1e-400", "NaN", "Infinity", "-Infinity"),
    *("true", "false", "null", "[]", "{}", '""', "[[]]", "[null]", '{"a":{"b":[1]}}'),
    *('"\\u0000"', '"a\\nb\\r\\tc"', '"\\u001b[31mred"', '"\\ud800"', '"\\udc00\\ud800"', '"\\ud83d\\ude00"'),
    *(
        '"\\u202e\\u2028"',
        '"é"',
        '"x"',
        '"cpu"',
        '"../../etc/passwd"',
        '"%s%n{0}"',
        '"\\u0000"',
        '"01"',
        "01",
        "+1",
        ".",
    ),
)

plain_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
).map(json.dumps)


@st.composite
def nested(draw: st.DrawFn) -> str:
    """Lists or objects in each other, closed again or not."""
    depth = draw(st.sampled_from(DEPTHS)) + draw(st.integers(-6, 6))
    opening, closing = draw(st.sampled_from([("[", "]"), ('{"a":', "}")]))
    return opening * depth + "1" + closing * draw(st.sampled_from([depth, depth, depth, 0, max(0, depth - 1)]))


@st.composite
def padded(draw: st.DrawFn) -> str:
    """A string about as long as a line may be, or a few KiB."""
    size = draw(
        st.sampled_from([300, 5000, 70_000, 70_000, LINE_LIMIT // 2, LINE_LIMIT - 60, LINE_LIMIT, LINE_LIMIT + 9])
    )
    return json.dumps(draw(st.sampled_from(["x", " ", "\\", "é"])) * (size // 2), ensure_ascii=draw(st.booleans()))


@st.composite
def values(draw: st.DrawFn) -> str:
    """A value, as JSON text or as something that is none."""
    choice = draw(st.integers(0, 39))
    if choice < 24:
        return EXTREMES[draw(st.integers(0, len(EXTREMES) - 1))]
    return draw(plain_json if choice < 34 else nested() if choice < 39 else padded())


def pairs(message: Mapping[str, Any]) -> Pairs:
    """A message as its keys and the text of their values."""
    return [(key, json.dumps(value)) for key, value in message.items()]


def text(message: Pairs) -> str:
    """The message's JSON text."""
    return "{" + ",".join(f"{json.dumps(key)}:{value}" for key, value in message) + "}"


@st.composite
def mutated(draw: st.DrawFn, message: Mapping[str, Any]) -> Frame:
    """A message with one to three things wrong (or not: a value may be drawn that does as well)."""
    made, kinds = pairs(message), []
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        kind = draw(st.sampled_from(["drop", "double", "retype", "retype", "retype", "rename", "add"]))
        place = draw(st.integers(0, 20)) % max(1, len(made))
        kinds.append(kind)
        if kind == "add" or not made:
            made.insert(place, (draw(st.sampled_from(["", "a", "type", "id", "params", "\x00"])), draw(values())))
        elif kind == "drop":
            del made[place]
        elif kind == "double":
            made.append((made[place][0], draw(st.one_of(st.just(made[place][1]), values()))))
        elif kind == "rename":
            made[place] = (draw(st.sampled_from([made[place][0].upper(), made[place][0] + " ", "x"])), made[place][1])
        else:
            made[place] = (made[place][0], draw(values()))
    return Frame(kinds[0], text(made).encode("utf-8", "surrogatepass"))


@st.composite
def damaged(draw: st.DrawFn, frame: Frame) -> Frame:
    """The bytes of a frame with some of them flipped, cut, doubled, or others put in."""
    data = bytearray(frame.data)
    place = draw(st.integers(0, 400)) % (len(data) + 1)
    match draw(st.sampled_from(["flip", "cut", "insert", "join", "pad", "newline"])):
        case "flip" if place < len(data):
            data[place] ^= 1 << draw(st.integers(0, 7))
        case "cut":
            del data[place:]
        case "join":
            data = data + data
        case "pad":
            data = bytearray(draw(st.sampled_from([b" ", b"\t", b"\r"])) * draw(st.integers(1, 50))) + data
        case "newline":
            data[place:place] = b"\n"
        case _:
            data[place:place] = draw(st.binary(min_size=1, max_size=4))
    return Frame("bytes", bytes(data))


BYTES = (b"", b"\n" * 3000, b" \r\n" * 50, b"\x00", b"\xff\xfe", b"\xef\xbb\xbf{}", b"[]", b"{}", b"1", b'""')


@st.composite
def raw(draw: st.DrawFn) -> Frame:
    """Bytes that never were a message."""
    match draw(st.integers(0, 2)):
        case 0:
            return Frame("raw", draw(st.binary(max_size=80)))
        case 1:
            return Frame("raw", BYTES[draw(st.integers(0, len(BYTES) - 1))])
        case _:
            return Frame("value", draw(values()).encode("utf-8", "surrogatepass"))
