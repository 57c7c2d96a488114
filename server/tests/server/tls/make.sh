#!/bin/bash
# Makes the certificates that the tests serve with: an authority, and two certificates of it for localhost that end in other
# years. The keys are in the open: nothing but these tests may trust this authority. Needs openssl; run it only to change them.
set -euo pipefail
cd "$(dirname "$0")"
key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"; }
key ca.key
openssl req -x509 -new -key ca.key -subj "/CN=Snowcache's tests" -days 36500 -out ca.pem \
  -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
make() { # NAME DAYS
  key "$1.key"
  openssl req -new -key "$1.key" -subj "/CN=$1" |
    openssl x509 -req -CA ca.pem -CAkey ca.key -days "$2" -out "$1.pem" -set_serial "$2" -extfile <(
      echo "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1"
      echo "basicConstraints=CA:FALSE"
    )
}
make first 20000
make second 30000
rm ca.key
