# Two generations of a small system: `top` refers to an `app` of its own, and both generations to one `library`. Their data is
# noise that no other path shares, so what a cache forgets is space on its disk.
{ generation }:
let
  build = import ./build.nix;
  noise = name: mib: "mkdir $out; head -c ${toString mib}M /dev/urandom > $out/noise; echo ${name} > $out/name";
  library = build "library" (noise "library" 3) { };
  app = build "app-${generation}" "${noise "app ${generation}" 9}; ln -s $library $out/library" { inherit library; };
in
build "top-${generation}" "mkdir $out; ln -s $app $out/app; ln -s $library $out/library" { inherit app library; } // {
  inherit app library;
}
