# A derivation from a shell script: what the tests build on nodes that have nothing but /bin/sh. `args` may override anything.
name: script: args:
derivation ({
  inherit name;
  system = "x86_64-linux";
  builder = "/bin/sh";
  args = [ "-euc" script ];
  PATH = "/usr/bin:/bin";
} // args)
