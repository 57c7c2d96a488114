# Floating content-addressed derivations: what they make is found through realisations.
let
  build = import ./build.nix;
  floating = { __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
  root = build "floating-root" "mkdir $out; echo root > $out/name; ln -s $out/name $out/self" floating;
in
build "floating-top" "mkdir $out; ln -s $root $out/root; echo top > $out/name" (floating // { inherit root; })
