# So many closures, of which no two share anything but their form: an app with a library and data, all noise. Of those in `long` the
# data are long.
{ count, long, mib, round }:
let
  build = import ./build.nix;
  noise = kib: "head -c ${toString kib}K /dev/urandom";
  closure = number: let
    name = "${toString round}-${toString number}";
    data = build "data-${name}" "${noise (if builtins.elem number long then mib * 1024 else 700)} > $out" { };
    library = build "library-${name}" "mkdir $out; ${noise 900} > $out/code; ${noise 40} > $out/header" { };
  in build "app-${name}" "mkdir $out; ${noise 600} > $out/program; ln -s $library $data $out" { inherit data library; };
in
builtins.genList closure count
