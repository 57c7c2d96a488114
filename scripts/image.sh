#!/usr/bin/env bash
# Makes a container image of the release binaries: an OCI layout in a tar file. Needs no container engine.
#
# usage: scripts/image.sh FILE.tar [FOLDER]     FOLDER: where snowcached and snowcache are [target/release]
#
#   podman load -i FILE.tar        docker load -i FILE.tar        skopeo copy oci-archive:FILE.tar docker://…
#
# In it: the two programs, the libraries that they name, a user, /data. Nothing else: no shell, no package manager.
# The same binaries on the same machine give the same bytes; SOURCE_DATE_EPOCH sets the date that is written into it [0].
# needs: tar, gzip, sha256sum, ldd, strip
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: scripts/image.sh FILE.tar [FOLDER]}
binaries=${2:-target/release}
epoch=${SOURCE_DATE_EPOCH:-0}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n1)
case $(uname -m) in
  x86_64) architecture=amd64 ;;
  aarch64) architecture=arm64 ;;
  *) echo "image: $(uname -m) is not supported" >&2; exit 1 ;;
esac
# Who it runs as: a number that no one has, and the same everywhere, so that volumes keep their owner.
user=65532

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022
mkdir -p "$work"/{libraries,programs/usr/bin,data/data,layout/blobs/sha256}

for name in snowcached snowcache; do
  [ -x "$binaries/$name" ] || { echo "image: $binaries/$name is missing; run: make build" >&2; exit 1; }
  strip --strip-debug -o "$work/programs/usr/bin/$name" "$binaries/$name"
done
# Each library under the name by which it is looked for, without the links of this machine.
ldd "$work"/programs/usr/bin/* | sed -nE 's/^.* => (\/[^ ]+) .*/\1/p; s/^\t(\/[^ ]+) .*/\1/p' | sort -u |
  while read -r library; do install -D -m 755 "$library" "$work/libraries$library"; done
mkdir -p "$work/programs/etc"
echo "snowcache:x:$user:$user:Snowcache:/data:/nonexistent" >"$work/programs/etc/passwd"
echo "snowcache:x:$user:" >"$work/programs/etc/group"

digest() { sha256sum | cut -d' ' -f1; }
pack() { # FOLDER OWNER: a tar that says nothing of this machine
  (cd "$1" && tar --create --sort=name --format=ustar --mtime="@$epoch" --owner="$2" --group="$2" --numeric-owner -- *)
}
blob() { # FILE: into the layout; prints its digest
  local hash
  hash=$(digest <"$1")
  mv "$1" "$work/layout/blobs/sha256/$hash"
  echo "$hash"
}
size() { stat -c %s "$work/layout/blobs/sha256/$1"; }

layers=() diffs=() descriptors=()
for part in libraries:0 programs:0 "data:$user"; do
  pack "$work/${part%:*}" "${part#*:}" >"$work/layer.tar"
  diffs+=("\"sha256:$(digest <"$work/layer.tar")\"")
  gzip -6 -n "$work/layer.tar"
  hash=$(blob "$work/layer.tar.gz")
  layers+=("\"blobs/sha256/$hash\"")
  type=application/vnd.oci.image.layer.v1.tar+gzip
  descriptors+=("{\"mediaType\":\"$type\",\"digest\":\"sha256:$hash\",\"size\":$(size "$hash")}")
done
joined() { local IFS=,; echo "$*"; }

# Healthcheck is Docker's; Kubernetes asks /healthz and /readyz.
cat >"$work/config.json" <<CONFIG
{"created":"$(date -u -d "@$epoch" +%Y-%m-%dT%H:%M:%SZ)","architecture":"$architecture","os":"linux","config":{
"User":"$user:$user","ExposedPorts":{"8420/tcp":{}},"Volumes":{"/data":{}},"WorkingDir":"/data","StopSignal":"SIGTERM",
"Env":["PATH=/usr/bin","SNOWCACHE_DATA=/data","SNOWCACHE_LISTEN=0.0.0.0:8420"],"Entrypoint":["/usr/bin/snowcached"],
"Healthcheck":{"Test":["CMD","/usr/bin/snowcache","info","http://127.0.0.1:8420"],"Interval":30000000000,"Timeout":10000000000},
"Labels":{"org.opencontainers.image.title":"snowcached","org.opencontainers.image.version":"$version",
"org.opencontainers.image.description":"Snowcache, a Nix binary cache","org.opencontainers.image.licenses":"MIT OR Apache-2.0"}},
"rootfs":{"type":"layers","diff_ids":[$(joined "${diffs[@]}")]}}
CONFIG
config=$(blob "$work/config.json")
cat >"$work/manifest.json" <<MANIFEST
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:$config","size":$(size "$config")},
"layers":[$(joined "${descriptors[@]}")]}
MANIFEST
manifest=$(blob "$work/manifest.json")
cat >"$work/layout/index.json" <<INDEX
{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:$manifest",
"size":$(size "$manifest"),"annotations":{"org.opencontainers.image.ref.name":"$version","io.containerd.image.name":"snowcached:$version"}}]}
INDEX
echo '{"imageLayoutVersion":"1.0.0"}' >"$work/layout/oci-layout"
# What older Dockers read instead of the index.
echo "[{\"Config\":\"blobs/sha256/$config\",\"RepoTags\":[\"snowcached:$version\"],\"Layers\":[$(joined "${layers[@]}")]}]" \
  >"$work/layout/manifest.json"
pack "$work/layout" 0 >"$work/image.tar"
mv "$work/image.tar" "$out"
echo "snowcached:$version, $(($(stat -c %s "$out") >> 20)) MiB, sha256:$manifest" >&2
