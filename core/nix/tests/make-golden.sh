#!/usr/bin/env bash
# Makes the golden vectors beside this script, in golden/, with a real Nix, in a store of their own.
#
# usage: make-golden.sh [NEWER]     NEWER: folder with the programs of a newer Nix (2.26 was used),
#                                   for listings as it writes them
# needs: root (for a private /nix, by unshare), Nix 2.8 or newer in PATH
#
# The keys are made new each time, so a second run gives other signatures; the rest stays the same.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
newer=${1:-}
if [ "${GOLDEN_PRIVATE_NIX:-}" != yes ]; then
  command -v nix >/dev/null || { echo "make-golden: nix is missing: apt install nix-bin" >&2; exit 1; }
  GOLDEN_PRIVATE_NIX=yes exec unshare --mount --propagation private "$0" "$@"
fi

work=$(mktemp -d)
trap 'umount /nix && chmod -R u+w "$work" && rm -rf "$work"' EXIT
mkdir -p "$work/nix" /nix
mount --bind "$work/nix" /nix
export NIX_REMOTE=local HOME=$work/home XDG_CACHE_HOME=$work/cache NIX_CONF_DIR=$work/conf LC_ALL=C
export NIX_CONFIG=$'experimental-features = nix-command ca-derivations\nsandbox = false\nbuild-users-group =\nsubstituters ='
mkdir -p "$HOME" "$NIX_CONF_DIR"
golden=$here/golden
rm -rf "$golden"
mkdir -p "$golden"/{nar,keys,xz}

# --- keys
for name in golden-1 golden-2; do
  nix key generate-secret --key-name $name >"$golden/keys/$name.sec"
  nix key convert-secret-to-public <"$golden/keys/$name.sec" >"$golden/keys/$name.pub"
done

# what is built here is signed by the second key, realisations too
NIX_CONFIG+=$'\n'"secret-key-files = $golden/keys/golden-2.sec"

# --- base32, by nix itself
for n in 1 2 3 4 5 6 7 8; do
  for type in md5 sha1 sha256 sha512; do
    hex=$(printf '%s' "$n" | "${type}sum" | cut -d' ' -f1)
    echo "$hex $(nix hash to-base32 --type $type "$hex")"
  done
done >"$golden/base32.txt"

# --- NARs of every shape, with the listing as the older and the newer Nix print it
trees=$work/trees
mkdir -p "$trees"/{dir-empty,tree/bin,tree/empty,tree/share/doc,names-utf8,names-bytes}
for size in 0 1 7 8 9 4096; do head -c $size /dev/zero | tr '\0' x >"$trees/file-$size"; done
printf '#!/bin/sh\necho hi\n' >"$trees/executable" && chmod +x "$trees/executable"
: >"$trees/executable-empty" && chmod +x "$trees/executable-empty"
ln -s /nix/store "$trees/link"
ln -s "$(printf 'long/%.0s' {1..819})" "$trees/link-4095"
cp "$trees/executable" "$trees/tree/bin/hi"
: >"$trees/tree/share/doc/README"
ln -s ../../bin/hi "$trees/tree/share/doc/hi"
ln -s "$(printf 'dangling\377target')" "$trees/names-bytes/link"
for name in a a-b a.b ab A aB 'with space' $'new\nline' 'quo"te' 'back\slash' $'\001\177' é 雪 "$(printf 'x%.0s' {1..255})"; do
  printf '%s' "$name" >"$trees/names-utf8/$name"
done
for name in $'\377' $'\303' $'a\200' a $'\200'; do printf '%s' "$name" >"$trees/names-bytes/$name"; done
# 64 nodes inside each other, the root counted: as deep as today's Nix goes.
deep=$trees/deep
mkdir -p "$deep/$(printf 'd/%.0s' {1..62})" && : >"$deep/$(printf 'd/%.0s' {1..62})file"
for tree in "$trees"/*; do
  nar=$golden/nar/$(basename "$tree").nar
  nix-store --dump "$tree" >"$nar"
  nix nar ls --json --recursive "$nar" / >"${nar%.nar}.ls-2.8" 2>/dev/null || rm "${nar%.nar}.ls-2.8"
  if [ -n "$newer" ]; then
    "$newer/nix" nar ls --json --recursive "$nar" / >"${nar%.nar}.ls" 2>/dev/null || rm "${nar%.nar}.ls"
  fi
done

# --- store paths of every kind
cat >"$work/golden.nix" <<'NIX'
let
  sh = name: script: extra: derivation ({
    inherit name;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    args = [ "-c" "PATH=/usr/bin:/bin; ${script}" ];
  } // extra);
  ca = { __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
  text = builtins.toFile "text" "no references\n";
in rec {
  plain = sh "plain" "mkdir -p $out/bin; echo plain > $out/bin/plain; chmod +x $out/bin/plain" {};
  self = sh "self" "mkdir $out; echo me: $out > $out/me; echo ${plain} $out $out > $out/both; ln -s $out/me $out/link" {};
  multi = sh "multi" "echo $dev > $out; mkdir $dev; echo ${self} > $dev/x" { outputs = [ "out" "dev" ]; };
  textWithReferences = builtins.toFile "text-with-references" "see ${text}\n";
  flat = sh "flat" "printf flat > $out" {
    outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = builtins.hashString "sha256" "flat"; };
  caSelf = sh "ca-self" "mkdir $out; echo $out > $out/me; echo -n $out$out/ > $out/twice" ca;
  caUses = sh "ca-uses" "mkdir $out; echo ${caSelf} > $out/uses" ca;
  caMulti = sh "ca-multi" "echo ${caUses} > $out; echo dev > $dev" (ca // { outputs = [ "out" "dev" ]; });
}
NIX
build() { nix build --no-link -L --file "$work/golden.nix" "$@"; }
build plain self multi caSelf caUses caMulti
paths=("$(nix-instantiate --eval --read-write-mode --json -E "(import $work/golden.nix).textWithReferences" | tr -d '"')")
build flat
for attr in self multi flat; do
  paths+=($(nix-build --no-out-link "$work/golden.nix" -A $attr))
done
paths+=("$(nix-instantiate "$work/golden.nix" -A plain 2>/dev/null)")
printf 'added as a file\n' >"$work/added"
paths+=("$(nix store add-file "$work/added")" "$(nix store add-path --name added-tree "$trees/tree")")
for type in md5 sha1 sha256 sha512; do
  cp "$work/added" "$work/flat-$type" && paths+=("$(nix-store --add-fixed $type "$work/flat-$type")")
  cp -r "$trees/tree" "$work/tree-$type" && paths+=("$(nix-store --add-fixed --recursive $type "$work/tree-$type")")
done
for tree in names-utf8 names-bytes deep link executable; do paths+=("$(nix-store --add "$trees/$tree")"); done
paths+=($(nix store make-content-addressed --json "${paths[1]}" | grep -o '/nix/store/[^"]*'))

# --- a whole cache: NARs, listings, realisations, narinfos with two signatures
nix store sign --key-file "$golden/keys/golden-2.sec" "${paths[@]}"
cache="file://$golden/cache?compression=none&write-nar-listing=true&secret-key=$golden/keys/golden-1.sec"
nix copy --to "$cache" "${paths[@]}"
nix copy --to "$cache" --file "$work/golden.nix" plain self multi caSelf caUses caMulti
# the same narinfos with FileHash and FileSize of compressed files
nix copy --to "file://$work/xz?compression=xz" "${paths[@]}"
cp "$work"/xz/*.narinfo "$golden/xz/"
if [ -n "$newer" ]; then
  mkdir -p "$golden/newer"
  XDG_CACHE_HOME=$work/cache-newer "$newer/nix" copy \
    --to "file://$work/newer?compression=zstd&write-nar-listing=true" "${paths[1]}" "${paths[0]}" "$(nix-store --add "$trees/names-utf8")"
  cp "$work"/newer/*.narinfo "$work"/newer/*.ls "$golden/newer/"
fi
{ nix --version; [ -z "$newer" ] || "$newer/nix" --version; } >"$golden/made-by.txt"
rm -rf "$golden/cache/log"
find "$golden" -type f -exec chmod 644 {} +
du -sh "$golden"
