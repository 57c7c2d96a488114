# top -> middle -> bottom, and a leaf beside them that nothing keeps: `extra` is needed for building only.
let
  build = import ./build.nix;
  bottom = build "dependencies-bottom" "echo BOTTOM is built; mkdir $out; echo bottom > $out/name" { };
  extra = build "dependencies-extra" "mkdir $out; echo extra > $out/name" { };
  middle = build "dependencies-middle" "mkdir $out; cat $extra/name > $out/made-with; ln -s $bottom $out/below" {
    inherit bottom extra;
  };
in
build "dependencies-top" ''
  echo TOP is built
  mkdir $out
  echo "#! $middle/below/name" > $out/program
  chmod +x $out/program
  printf TOPMOST > $out/word
'' { inherit middle; } // { inherit bottom middle extra; }
