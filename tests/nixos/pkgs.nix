# As much of nixpkgs' packages as our modules use: writers of files. Derivations are real, built by /bin/sh.
{ lib }:
let
  inherit (builtins) attrNames concatStringsSep filter isAttrs isList isString map toFile toJSON;
  # Values and then tables, as TOML wants it. Strings of JSON are strings of TOML.
  table =
    path: set:
    let
      names = attrNames set;
      plain = filter (name: !(isAttrs set.${name})) names;
      tables = filter (name: isAttrs set.${name}) names;
      below = name: let here = path ++ [ name ]; in "\n[${concatStringsSep "." here}]\n${table here set.${name}}";
    in
    concatStringsSep "" (map (name: "${name} = ${value set.${name}}\n") plain ++ map below tables);
  value =
    it:
    if isList it then
      "[" + concatStringsSep ", " (map value it) + "]"
    else if isAttrs it then
      "{ " + concatStringsSep ", " (map (name: "${name} = ${value it.${name}}") (attrNames it)) + " }"
    else
      toJSON it;
in
rec {
  coreutils = "/usr";
  formats.toml = _: {
    type =
      let
        inherit (lib.types) attrsOf bool float int listOf oneOf path str;
        value = oneOf [ bool int float str path (attrsOf value) (listOf value) ] // { name = "a TOML value"; description = "TOML value"; };
      in
      value;
    generate = name: set: toFile name (table [ ] set);
  };
  runCommand =
    name: variables: script:
    derivation (
      variables
      // {
        inherit name;
        system = builtins.currentSystem;
        builder = "/bin/sh";
        PATH = "/usr/bin:/bin";
        args = [ "-ec" script ];
      }
    );
}
