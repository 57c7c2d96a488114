# What flake.nix exports, with a stand-in for nixpkgs: names of packages, modules, checks and shells, and the programs that
# the modules' default packages are. nixpkgs itself is not asked.
let
  lib = import ./stand-in.nix;
  genAttrs = names: f: builtins.listToAttrs (map (name: { inherit name; value = f name; }) names);
  derivation = name: { type = "derivation"; inherit name; outPath = "/nix/store/${name}"; };
  packagesFor = system: {
    stdenv.hostPlatform = { inherit system; };
    inherit lib;
    rustPlatform = {
      buildRustPackage = arguments: derivation arguments.pname // { inherit (arguments) version cargoBuildFlags; };
      bindgenHook = derivation "hook";
    };
    mkShell = arguments: derivation "shell" // arguments;
    pkg-config = derivation "pkg-config";
  };
  nixpkgs = {
    lib = lib // {
      inherit genAttrs;
      nixosSystem = { modules, system }: lib.evalModules { inherit modules; specialArgs.pkgs = packagesFor system; };
    };
    legacyPackages = genAttrs [ "x86_64-linux" "aarch64-linux" ] packagesFor;
  };
  self = { outPath = toString ../..; } // (import ../../flake.nix).outputs { inherit self nixpkgs; };
  machine = lib.evalModules {
    specialArgs.pkgs = packagesFor "aarch64-linux" // import ./pkgs.nix { inherit lib; };
    modules = [
      ./machine.nix
      self.nixosModules.server
      self.nixosModules.agent
    ];
  };
in
{
  packages = builtins.mapAttrs (_: builtins.mapAttrs (_: package: package.name)) self.packages;
  modules = builtins.attrNames self.nixosModules;
  checks = builtins.attrNames self.checks.x86_64-linux;
  shells = builtins.attrNames self.devShells.x86_64-linux;
  server = machine.config.services.snowcached.package.name;
  agent = machine.config.services.snowcache-agent.package.name;
  inherit (self.packages.x86_64-linux.server) version;
}
