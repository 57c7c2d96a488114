#!/usr/bin/env bash
# Makes the fuzzers' seeds from the golden vectors. Run it again after ../tests/make-golden.sh.
set -euo pipefail
cd "$(dirname "$0")"
golden=../tests/golden
rm -rf seeds
mkdir -p seeds/{nar,narinfo,store_path,key,realisation,ca} regressions/{nar,narinfo,store_path,key,realisation,ca,daemon}
for nar in "$golden"/nar/*.nar; do
  [ "$(stat -c %s "$nar")" -gt 4096 ] || cp "$nar" seeds/nar/
done
cp "$golden"/xz/[0-6]*.narinfo seeds/narinfo/
sed '/^\(URL\|Compression\|FileHash\|FileSize\):/d' "$golden"/cache/696*.narinfo >seeds/narinfo/record
printf 'System: x86_64-linux\nDeriver: unknown-deriver\nFoo: bar\n' | cat "$golden"/cache/v52*.narinfo - >seeds/narinfo/unknown
base=$(sed -n 's/^Deriver: //p' "$golden"/cache/696*.narinfo)
printf '%s' "$base" >seeds/store_path/base
printf '/nix/store/%s' "$base" >seeds/store_path/absolute
printf '%s' "${base%%-*}" >seeds/store_path/hash
sed -n 's/^NarHash: //p' "$golden"/cache/696*.narinfo | tr -d '\n' >seeds/store_path/narhash
sed -n 's/^NarHash: sha256://p' "$golden"/cache/696*.narinfo | tr -d '\n' >seeds/store_path/base32
printf 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=' >seeds/store_path/sri
printf 'md5:d41d8cd98f00b204e9800998ecf8427e' >seeds/store_path/hex
for name in golden-1 golden-2; do
  for kind in sec pub; do printf '%s' "$(cat "$golden/keys/$name.$kind")" >"seeds/key/$name.$kind"; done
done
sed -n 's/^Sig: //p' "$golden"/cache/696*.narinfo | head -1 | tr -d '\n' >seeds/key/signature
cp "$golden"/cache/realisations/* seeds/realisation/
zeros=$(head -c 64 /dev/zero | base64 -w0)
printf '{"outPath":"%s","signatures":[{"keyName":"a-1","sig":"%s"}],"new":{"a":[1,true,null]}}' \
  "$base" "$zeros" >seeds/realisation/newer
printf 'sha256:%064d!out' 0 >seeds/realisation/id
for narinfo in "$golden"/cache/*.narinfo; do
  ca=$(sed -n 's/^CA: //p' "$narinfo")
  nar=$golden/cache/$(sed -n 's/^URL: //p' "$narinfo")
  [ -n "$ca" ] && [ "$(stat -c %s "$nar")" -lt 1024 ] || continue
  { printf '%s\n' "$ca"; cat "$nar"; } >"seeds/ca/$(basename "$narinfo" .narinfo)"
done
python3 make-daemon-seeds.py
own=${base%%-*}
{ printf 'text\n%s-x' "$own"; printf '%.0s0' {1..40}; printf '%s%s' "$own" "$own"; } >seeds/ca/own-first
for folder in regressions/*; do [ -n "$(ls -A "$folder")" ] || touch "$folder/.gitkeep"; done
du -sh seeds
