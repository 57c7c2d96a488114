#!/usr/bin/env python3
"""Makes the seeds of the target `daemon`: what nix-daemons of several versions answer to its questions."""
import os
import struct

LAST, ERROR, NEXT = 0x616C7473, 0x63787470, 0x6F6C6D67
START, STOP, RESULT = 0x53545254, 0x53544F50, 0x52534C54
PATH = b"/nix/store/0c7c96gikmzv87i7lv3vq5s1cmfjd6zf-hello-2.12"


def wire(*words):
    out = b""
    for word in words:
        if isinstance(word, int):
            out += struct.pack("<Q", word)
        else:
            out += struct.pack("<Q", len(word)) + word + bytes(-len(word) % 8)
    return out


def hello(minor):
    words = [0x6478696F, 1 << 8 | minor]
    words += [1, b"feature"] if minor >= 38 else []
    words += [b"2.26.3"] if minor >= 33 else []
    words += [1] if minor >= 35 else []
    return wire(*words, LAST, LAST)


def error(text):
    return wire(ERROR, b"Error", 0, b"Error", text, 0, 1, 0, b"while")


INFO = wire(LAST, 1, b"", b"0" * 64, 1, PATH, 1700000000, 120, 0, 1, b"a-1:" + b"A" * 86 + b"==", b"")
HELD = wire(LAST, 1) * 2
NAR = b"".join(wire(w) for w in [b"nix-archive-1", b"(", b"type", b"regular", b"contents", b"hi", b")"])
GOOD = INFO + wire(LAST, 1, PATH) + wire(LAST, PATH) + HELD + wire(LAST) + wire(LAST) + NAR
SEEDS = {
    "good-1.32": hello(32) + GOOD,
    "good-1.34": hello(34) + GOOD,
    "good-1.38": hello(38) + GOOD,
    "nothing": hello(38) + wire(LAST, 0) + wire(LAST, 0) + wire(LAST, b"") + HELD + wire(LAST) + error(b"not valid"),
    "refusals": hello(34) + error(b"no") * 7,
    "chatty": hello(38) + wire(NEXT, b"line\n", START, 7, 3, 105, b"copying", 2, 0, 9, 1, b"x", 0)
    + wire(RESULT, 7, 101, 0, STOP, 7) + GOOD,
}

if __name__ == "__main__":
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "seeds", "daemon")
    os.makedirs(folder, exist_ok=True)
    for name, said in SEEDS.items():
        with open(os.path.join(folder, name), "wb") as seed:
            seed.write(said)
