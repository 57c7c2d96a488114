#!/bin/sh
# Two generations of version bumps, FOLDER/old and FOLDER/new, for
#   cargo bench --bench cut_sweep -- FOLDER/old FOLDER/new
# The oldest and the newest version of each package (28, unless named) that this Debian
# machine's apt knows; downloads some 130 MB.
set -eu
folder=${1:?usage: debian-bumps.sh FOLDER [PACKAGE...]}
shift
packages=${*:-"git libssl3 openssl libc6 libcurl4 curl python3.11-minimal libpython3.11-minimal
libpython3.11-stdlib perl-base perl-modules-5.36 libperl5.36 libglib2.0-0 libexpat1
libxml2 libc-bin libc6-dev locales libsystemd0 systemd udev openssh-client
openssh-server libpq5 postgresql-15 nginx bind9-libs imagemagick-6-common"}
mkdir -p "$folder/old" "$folder/new" "$folder/deb"
for package in $packages; do
    versions=$(apt-cache madison "$package" | grep -v Sources | cut -d'|' -f2 | tr -d ' ' | uniq)
    new=$(echo "$versions" | head -n1)
    old=$(echo "$versions" | tail -n1)
    [ "$old" != "$new" ] || continue
    for which in old new; do
        eval "version=\$$which"
        rm -f "$folder"/deb/*
        (cd "$folder/deb" && apt-get -qq download "$package=$version")
        dpkg-deb -x "$folder"/deb/*.deb "$folder/$which/$package"
    done
done
