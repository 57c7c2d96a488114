{"target":"/nix/store","type":"symlink"}
