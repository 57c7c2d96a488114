# What `make demo` shows: a system of forty packages of this machine's own programs, each with the path of what it depends on in
# them, so that a change at the bottom gives every one of them another hash, as in nixpkgs.
{ generation }:
let
  build = name: script: import ./build.nix name script { system = builtins.currentSystem; };
  libc = build "libc-1.0" ''
    mkdir -p $out/lib
    echo 'patch ${generation}' >$out/lib/version
  '';
  package = number: build "package-${toString number}-1.0" ''
    mkdir -p $out/bin $out/share
    find /usr/bin -maxdepth 1 -type f -size +60k -size -4000k | sort | awk 'NR % 40 == ${toString number}' |
      while read -r file; do
        { cat "$file"; echo "${libc}/lib ${if number == 0 then "" else toString (package (number - 1))}"; } \
          >$out/bin/$(basename "$file")
      done
    echo "exec ${libc}/lib $out/bin" >$out/share/wrapper
  '';
in
build "nixos-system-demo-${generation}" ''
  mkdir -p $out/bin
  echo '${toString (builtins.genList package 40)}' >$out/packages
  cat >$out/bin/switch-to-configuration <<'DONE'
  #!/bin/sh
  echo "  generation ${generation} is told: $1"
  DONE
  chmod +x $out/bin/switch-to-configuration
''
