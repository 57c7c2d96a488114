# Paths whose names are made from their content, one of each method and algorithm, each with its own way of being checked.
let
  build = import ./build.nix;
  fixed = algorithm: mode: hash: build "fixed-${mode}-${algorithm}" "printf 'the same words' > $out" {
    outputHashAlgo = algorithm;
    outputHashMode = mode;
    outputHash = hash;
  };
  words = algorithm: builtins.hashString algorithm "the same words";
in
{
  text = builtins.toFile "a-text" "some text\n";
  textWithReference = builtins.toFile "a-text-with-a-reference" "see ${builtins.toFile "a-text" "some text\n"}\n";
  flat = map (algorithm: fixed algorithm "flat" (words algorithm)) [ "md5" "sha1" "sha256" "sha512" ];
  tree = builtins.path { path = ./tree; name = "a-tree"; };
}
