# A tree with what a listing can go wrong on: empty files and folders, names that sort between a folder and its entries, UTF-8.
import ./build.nix "nar-access" ''
  mkdir -p $out/deep/er $out/empty
  touch $out/deep-not $out/deep/a $out/deep/b $out/z
  ln -s ../z $out/deep/er/link
  chmod +x $out/z
  printf 'three lines,\nÄrger mit Ümlauten «»”,\nand an end\n' > $out/deep/words
'' { }
