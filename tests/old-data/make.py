#!/usr/bin/env python3
"""Makes a data directory to be kept: what a version of snowcached leaves behind, for later ones.

    tests/old-data/make.py SNOWCACHED NAME     writes tests/old-data/NAME.tar.zst and NAME.json

NAME.json says what was served from it: of every path the narinfo and the SHA-256 of its NAR and of
the file that the narinfo names; the documents; for uploads that only have a lease, a narinfo to
put. tests/upgrade.rs opens it with today's snowcached. v1 was made on 2026-11-22, by the first
version that had a depot; it cannot be made again, only added to under a new name.
"""
import base64, hashlib, json, os, pathlib, signal, socket, struct, subprocess, sys
import tempfile, time, urllib.request

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "reader"))
from snowread import base32  # noqa: E402

CENTURY_S = 100 * 365 * 86400


def noise(seed, length):
    blocks = (hashlib.sha256(f"{seed} {n}".encode()).digest() for n in range(-(-length // 32)))
    return b"".join(blocks)[:length]


def words(*parts):
    return b"".join(struct.pack("<Q", len(p)) + p + bytes(-len(p) % 8) for p in parts)


def regular(content, *more):
    return words(b"(", b"type", b"regular", *more, b"contents", content, b")")


def directory(**entries):
    inside = (words(b"entry", b"(", b"name", name.encode(), b"node") + node + words(b")")
              for name, node in sorted(entries.items()))
    return words(b"(", b"type", b"directory") + b"".join(inside) + words(b")")


def nar(node):
    return words(b"nix-archive-1") + node


def path(name):
    return f"{base32(hashlib.sha256(name.encode()).digest()[:20])}-{name}"


class Server:
    def __init__(self, program, data, lease_s):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.base = f"http://127.0.0.1:{free.getsockname()[1]}"
        config = data.parent / "snowcached.toml"
        config.write_text(f'[cache]\nkey_name = "old-data-1"\n[uploads]\nlease_s = {lease_s}\n')
        self.process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", program, "--config",
                                         config, "--data", data, "--listen", self.base[7:]])
        while True:
            try:
                self.get("/healthz")
                break
            except OSError:
                time.sleep(0.05)
        self.token = (data / "push.token").read_text().strip()

    def get(self, url):
        return urllib.request.urlopen(self.base + url).read()

    def put(self, url, body):
        headers = {"Authorization": f"Bearer {self.token}"}
        request = urllib.request.Request(self.base + "/push" + url, body, headers, method="PUT")
        urllib.request.urlopen(request).read()

    def upload(self, name, content, references=(), signatures=()):
        """Sends the NAR; returns the narinfo that would publish it."""
        digest = base32(hashlib.sha256(content).digest())
        self.put(f"/nar/{digest}.nar", content)
        lines = [f"StorePath: /nix/store/{path(name)}", f"URL: nar/{digest}.nar",
                 "Compression: none", f"NarHash: sha256:{digest}", f"NarSize: {len(content)}",
                 "References: " + " ".join(references), f"Deriver: {path(name)}.drv",
                 *(f"Sig: {signature}" for signature in signatures)]
        return "\n".join(lines) + "\n"

    def push(self, name, content, references=(), signatures=()):
        narinfo = self.upload(name, content, references, signatures)
        self.put(f"/{path(name)[:32]}.narinfo", narinfo.encode())

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait() == 0


def fill(server):
    """Every kind of record and op, and both kinds of answer to a second offer."""
    shared, leaf, farm = noise("shared", 20_000), path("leaf"), path("farm")
    links = "".join(f"/nix/store/{path(f'link-{n}')}/bin/tool-{n}\n" for n in range(60)).encode()
    script = b"#!/nix/store/" + leaf.encode() + b"/bin/sh\n" + shared + leaf.encode() + b"\nexit\n"
    library = nar(directory(lib=regular(shared), notes=regular(b"snow\n" * 3000)))
    server.push("empty", nar(regular(b"")))
    server.push("leaf", library)
    server.push("twin-of-leaf", library)
    server.push("script", nar(regular(script, b"executable", b"")), [leaf])
    server.push("farm", nar(regular(links * 3)), [leaf, farm])
    top = directory(deep=directory(farm=words(b"(", b"type", b"symlink", b"target",
                                              f"/nix/store/{farm}".encode(), b")")))
    server.push("top", nar(top), [farm, leaf, path("script")])
    more = "elsewhere-1:" + base64.b64encode(noise("signature", 64)).decode()
    server.push("leaf", library, signatures=[more])
    server.push("empty", nar(regular(b"a second offer, which loses")))
    for log in b"the first attempt\n", b"built on the second attempt\n":
        server.put(f"/log/{path('leaf')}.drv", log)
    realisation = {"id": f"sha256:{'ab' * 32}!out", "outPath": leaf, "signatures": [],
                   "dependentRealisations": {}}
    server.put(f"/realisations/{realisation['id']}.doi", json.dumps(realisation).encode())
    waiting = server.upload("waiting", nar(regular(noise("waiting", 5_000))), [leaf])
    documents = [f"/log/{path('leaf')}.drv", f"/realisations/{realisation['id']}.doi"]
    return documents, {path("waiting"): waiting}


def golden(server, documents, uploads):
    paths = {}
    for name in json.loads(server.get("/api/v1/paths?limit=1000"))["paths"]:
        narinfo = server.get(f"/{name[:32]}.narinfo").decode()
        fields = dict(line.split(": ", 1) for line in narinfo.splitlines())
        raw = server.get(f"/nar/{fields['NarHash'][len('sha256:'):]}.nar")
        paths[name] = {"narinfo": narinfo, "nar": hashlib.sha256(raw).hexdigest(),
                       "file": hashlib.sha256(server.get("/" + fields["URL"])).hexdigest()}
    documents = {url: server.get(url).decode() for url in documents}
    return {"paths": paths, "documents": documents, "uploads": uploads}


def main(program, name):
    with tempfile.TemporaryDirectory() as folder:
        data = pathlib.Path(folder) / "data"
        server = Server(program, data, lease_s=1)
        server.upload("forgotten", nar(regular(noise("forgotten", 3_000))))
        server.stop()
        server = Server(program, data, lease_s=CENTURY_S)
        served = golden(server, *fill(server))
        server.stop()
        (HERE / f"{name}.json").write_text(json.dumps(served, indent=1, sort_keys=True) + "\n")
        subprocess.run(["tar", "-C", folder, "--sort=name", "--owner=0", "--group=0", "--exclude=LOG*",
                        "-I", "zstd -19", "-cf", HERE / f"{name}.tar.zst", "data"], check=True)
    print(f"{name}.tar.zst: {os.path.getsize(HERE / f'{name}.tar.zst')} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
