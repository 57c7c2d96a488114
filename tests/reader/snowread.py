#!/usr/bin/env python3
"""Restores every path of a depot from its segments, knowing nothing but docs/format/README.md.

It needs Python 3.9 and the program `zstd`: no index, no library, no part of Snowcache. What is
damaged is named on stderr and left out, the exit code is 1 then; nothing is ever guessed.

    snowread.py SEGMENTS list           every path: its name, NarHash, NarSize; then the pins
    snowread.py SEGMENTS check          rebuilds every NAR: is its SHA-256 its NarHash?
    snowread.py SEGMENTS nar HASH       the NAR of a path, or the one with this NarHash
    snowread.py SEGMENTS restore DIR    all of it, for: nix copy --from file://DIR

    --cache NAME    of this cache; there may be others beside "default"
    --fast          believe what is stored of frames: a NAR's SHA-256 is checked in any case
"""
import argparse, array, collections, hashlib, io, json, mmap, pathlib, re, struct
import resource, subprocess, sys, tempfile

NEWEST = 2  # the newest version of a record that this reader knows
FRAME, SEGMENT, RECIPE, PATH, SIGNATURES, PART, REMOVED, PIN = 1, 2, 3, 5, 6, 9, 10, 11
LITERAL, UNZSTD = 2, ["zstd", "-dcq"]
NAME, NAR = "StorePath: /nix/store/", "NarHash: sha256:"
ALPHABET = "0123456789abcdfghijklmnpqrsvwxyz"
faults = []


def complain(sentence, fault=True):
    faults.extend([sentence] * fault)
    print(f"snowread: {sentence}", file=sys.stderr)


# ---- checksums: CRC-32C, and BLAKE3 of all chunks at once ----

TABLE = list(range(256))
for _ in range(8):
    TABLE = [crc >> 1 ^ (0x82F63B78 if crc & 1 else 0) for crc in TABLE]
IV = struct.unpack("<8I", bytes.fromhex("67e6096a85ae67bb72f36e3c3af54fa5"
                                        "7f520e518c68059babd9831f19cde05b"))
MIXED = [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
         (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]
NEXT_ROUND = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def pack(words):
    """32-bit words as the 64-bit lanes of one integer: Python adds and shifts them in one step."""
    return int.from_bytes(array.array("Q", words).tobytes(), "little")


def compress(chain, message, counters, length, flags):
    """BLAKE3's compression function, for as many blocks at once as there are counters."""
    ones = pack([1] * len(counters))
    low, v, message = 0xFFFFFFFF * ones, [pack(word) for word in chain], [*map(pack, message)]
    v += [word * ones for word in IV[:4]] + [pack(counters), 0, length * ones, flags * ones]
    for _ in range(7):
        for index, (a, b, c, d) in enumerate(MIXED):
            for half, (first, second) in enumerate(((16, 12), (8, 7))):
                v[a] = v[a] + v[b] + message[2 * index + half] & low
                turn = v[d] ^ v[a]
                v[d] = (turn >> first | turn << 32 - first) & low
                v[c] = v[c] + v[d] & low
                turn = v[b] ^ v[c]
                v[b] = (turn >> second | turn << 32 - second) & low
        message = [message[index] for index in NEXT_ROUND]
    lanes = [(v[i] ^ v[i + 8]).to_bytes(8 * len(counters), "little") for i in range(8)]
    return [array.array("I", word)[::2] for word in lanes]


def chunks(data, counters, size, root):
    """The chaining values of chunks of `size` bytes with these numbers."""
    words, blocks = array.array("I", data + bytes(-size % 64 if size else 64)), -(-size // 64) or 1
    chain = [[word] * len(counters) for word in IV]
    for block in range(blocks if counters else 0):
        last = block == blocks - 1
        flags = CHUNK_START * (block == 0) | (CHUNK_END | root) * last
        message = [words[16 * block + i::16 * blocks] for i in range(16)]
        chain = compress(chain, message, counters, size - 64 * block if last else 64, flags)
    return chain


def blake3(data):
    whole, rest = divmod(len(data), 1024)
    count, values = whole + (rest > 0) or 1, [array.array("I") for _ in IV]
    for numbers, size in (range(whole), 1024), (range(whole, count), rest):
        part = data[1024 * numbers.start:1024 * numbers.start + len(numbers) * size]
        for have, more in zip(values, chunks(part, numbers, size, ROOT * (count == 1))):
            have.extend(more)
    while count > 1:
        pairs = count // 2
        message = [values[i % 8][i // 8:2 * pairs:2] for i in range(16)]
        chain, flags = [[word] * pairs for word in IV], PARENT | ROOT * (count == 2)
        parents = compress(chain, message, [0] * pairs, 64, flags)
        values = [word + have[2 * pairs:] for word, have in zip(parents, values)]
        count -= pairs
    return b"".join(word.tobytes() for word in values)


# ---- segments: whole records, up to the end of the last commit ----

MAGIC = re.compile(rb"[\x57\x58]\x2a\x4d\x18")
# its header lies at `at`, what follows it from `body` to `end`; `key`: FrameId or sequence number
Record = collections.namedtuple("Record", "kind commit key checksum at body end")


def record_at(segment, at):
    """The record whose header begins at `at`, or None when there is no whole one."""
    size = {b"\x57\x2a\x4d\x18": 64, b"\x58\x2a\x4d\x18": 32}.get(segment[at:at + 4], 0)
    header = segment[at:at + size]
    if not size or crc32c(header[:-4]).to_bytes(4, "little") != header[-4:]:
        return None
    length, kind, version, flags = struct.unpack_from("<IBBB", header, 4)
    if version > NEWEST:
        sys.exit(f"snowread: a record here has version {version} and this reader knows versions up "
                 f"to {NEWEST}: take the reader that came with the snowcached that wrote it")
    if size == 64:
        key, _, length, checksum = struct.unpack_from("<32sII8s", header, 12)  # flags are 0
    else:
        key, checksum, length = *struct.unpack_from("<Q8s", header, 12), length - 24
    known = kind == FRAME if size == 64 else SEGMENT <= kind <= PIN
    record = Record(kind, flags & 1, key, checksum, at, at + size, at + size + length)
    return record if known and record.end <= len(segment) else None


def records(name, segment, fast):
    """All that was acknowledged in a segment and is not damaged."""
    at, end, spoilt, waiting, damage = 0, 0, 0, [], []
    while at < len(segment):
        record = record_at(segment, at)
        if record is None:
            start, places = at, (found.start() for found in MAGIC.finditer(segment, at + 1))
            spoilt = at = next((it for it in places if record_at(segment, it)), len(segment))
            damage.append(f"{name} is damaged from {start} to {at}")
            continue
        at = record.end
        believed = fast and record.kind == FRAME
        if not believed and blake3(segment[record.body:at])[:8] != record.checksum:
            damage.append(f"{name} is damaged from {record.at} to {at}")
            spoilt = at
            continue
        waiting.append(record)
        if record.commit:
            is_group = record.kind == PART and record.body < at
            begins = json.loads(segment[record.body:at])["begins"] if is_group else at
            end = begins if begins < spoilt else at  # a group counts wholly or not at all
            yield from (one for one in waiting if one.at < end)
            waiting = [one for one in waiting if one.at >= end]
            damage = damage if waiting else list(filter(complain, damage))
    if end < len(segment):
        complain(f"{name} ends with {len(segment) - end} bytes that were never committed", False)


# ---- what the records say ----

class Depot:
    def __init__(self, folder, cache, fast):
        self.frames, self.recipes, states = {}, collections.defaultdict(list), {}
        for path in sorted(path for path in folder.glob("*.seg") if path.stat().st_size):
            with path.open("rb") as file:
                segment = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            for record in records(path.name, segment, fast):
                if record.kind == FRAME:
                    self.frames[record.key] = segment, record.at, record.body, record.end
                elif record.kind == RECIPE:
                    nar = base32(segment[record.body:record.body + 32])
                    self.recipes[nar].append(segment[record.body + 40:record.end])
                elif record.kind in (PATH, SIGNATURES, REMOVED, PIN):
                    states[record.key] = record.kind, json.loads(segment[record.body:record.end])
        self.paths, self.pins = {}, {}  # hash part -> narinfo; name -> pin
        for _, (kind, state) in sorted(states.items()):
            if state["cache"] == cache:
                self.apply(kind, state)

    def apply(self, kind, state):
        """Takes in one state of the cache; they come in the order in which they were made."""
        path = state.get("store_hash")
        if kind == PATH:
            self.paths.setdefault(field(state["narinfo"], NAME)[:32], state["narinfo"])
        elif kind == SIGNATURES and path in self.paths:
            narinfo = re.sub(r"^Sig: .*\n", "", self.paths[path], flags=re.M)
            place = re.search(r"^References:.*\n(Deriver: .*\n)?", narinfo, re.M).end()
            lines = "".join(f"Sig: {signature}\n" for signature in sorted(state["signatures"]))
            self.paths[path] = narinfo[:place] + lines + narinfo[place:]
        elif kind == REMOVED:
            self.paths.pop(path, None)
        elif kind == PIN:
            self.pins[state["name"]] = state

    def pieces(self, nar):
        """What is served of a NAR: (bytes, start, what the encoding's name covers, end) a piece."""
        missing = "its NAR has no recipe"
        for packed in self.recipes[nar]:
            recipe = packed[1:]
            if packed[0] == 1:
                recipe = subprocess.run(UNZSTD, input=recipe, stdout=subprocess.PIPE).stdout
            parts = list(ops(recipe))
            gone = [part for kind, part in parts if kind != LITERAL and part not in self.frames]
            if not gone:
                return [literal(x) if kind == LITERAL else self.frames[x] for kind, x in parts]
            missing = f"its NAR lacks {len(gone)} frames, first {gone[0].hex()}"
        raise LookupError(missing)

    def nar(self, nar, name=None):
        """A NAR's bytes; LookupError at their end where they are not what its NarHash says."""
        with open(name, "wb") if name else tempfile.NamedTemporaryFile() as served:
            for source, start, _, end in self.pieces(nar):
                served.write(source[start:end])
            served.flush()
            child = subprocess.Popen([*UNZSTD, served.name], stdout=subprocess.PIPE)
            digest = hashlib.sha256()
            while data := child.stdout.read(1 << 20):
                digest.update(data)
                yield data
        if child.wait() or base32(digest.digest()) != nar:
            raise LookupError("its NAR is not what its NarHash says")

    def narinfo(self, path, nar):
        """The name of the file that is served for a path, and the narinfo that says so."""
        pieces, (first, rest) = self.pieces(nar), self.paths[path].split("\n", 1)
        encoding = blake3(b"".join(source[start:named] for source, start, named, _ in pieces))[:10]
        size = sum(end - start for _, start, _, end in pieces)
        file = f"nar/{nar}-{base32(encoding)}.nar.zst"
        return file, f"{first}\nURL: {file}\nCompression: zstd\nFileSize: {size}\n{rest}"


def ops(recipe):
    """(kind, FrameId) or (LITERAL, bytes) for each op."""
    take = io.BytesIO(recipe).read

    def varint():
        byte = take(1)[0]
        return byte if byte < 128 else byte - 128 + 128 * varint()

    if take(4) != b"snr1":
        raise LookupError("its recipe does not begin with snr1: a newer reader may know it")
    count = varint()
    [varint() for _ in range(-(-count // 1024) * 2)]  # a table, to find the middle of a NAR
    for first in range(0, count, 1024):
        block = min(1024, count - first)
        kinds = [byte >> 2 * i & 3 for byte in take(-(-block // 4)) for i in range(4)][:block]
        lengths = [varint() for _ in kinds]
        ids = [take((32, 64, 0)[kind])[:32] for kind in kinds]
        for kind, length, name in zip(kinds, lengths, ids):
            yield kind, take(length) if kind == LITERAL else name


def literal(data):
    """A literal as it is served: a zstd frame of one raw block."""
    size = (32, len(data)) if len(data) < 256 else (96, len(data) - 256 & 255, len(data) - 256 >> 8)
    frame = b"\x28\xb5\x2f\xfd" + bytes(size) + struct.pack("<I", len(data) << 3 | 1)[:3] + data
    return frame, 0, len(frame), len(frame)


def base32(data):
    number = int.from_bytes(data, "little")
    return "".join(ALPHABET[number >> 5 * i & 31] for i in reversed(range(-(-len(data) * 8 // 5))))


def field(narinfo, key):
    return re.search(f"^{key}(.*)$", narinfo, re.M)[1]


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("segments")
    parser.add_argument("command", choices=["list", "check", "nar", "restore"])
    parser.add_argument("what", nargs="?", default="")
    parser.add_argument("--cache", default="default")
    parser.add_argument("--fast", action="store_true")
    asked = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE)[1:] * 2)
    depot = Depot(pathlib.Path(asked.segments), asked.cache, asked.fast)
    folder = pathlib.Path(asked.what)
    if asked.command == "restore":
        (folder / "nar").mkdir(parents=True, exist_ok=True)
        (folder / "nix-cache-info").write_text("StoreDir: /nix/store\n")
    for path in [asked.what] if asked.command == "nar" else sorted(depot.paths):
        narinfo = depot.paths.get(path, f"{NAME}{path}\n{NAR}{path[-52:]}\n")
        name, nar = field(narinfo, NAME), field(narinfo, NAR)
        try:
            if asked.command == "list":
                depot.pieces(nar)
                print(name, f"sha256:{nar}", field(narinfo, "NarSize: "))
                continue
            file, text = depot.narinfo(path, nar) if asked.command == "restore" else (None, "")
            for data in depot.nar(nar, file and folder / file):
                sys.stdout.buffer.write(data if asked.command == "nar" else b"")
            if file:
                (folder / f"{path}.narinfo").write_text(text)
        except LookupError as error:
            complain(f"lost: {name}: {error}")
    for name, pin in sorted(depot.pins.items()):
        if asked.command == "list" and pin["generations"]:
            print("pin", name, json.dumps(pin))
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
