{
  description = "Snowcache: a Nix binary cache for fleets";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      forAll = f: nixpkgs.lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});
      version = (builtins.fromTOML (builtins.readFile ./Cargo.toml)).workspace.package.version;
      build =
        pkgs: package: binary:
        pkgs.rustPlatform.buildRustPackage {
          pname = binary;
          inherit version;
          src = self;
          cargoLock.lockFile = ./Cargo.lock;
          cargoBuildFlags = [
            "--package"
            package
          ];
          # The suite needs real stores and servers of its own: `make test` runs it, outside of a build.
          doCheck = false;
          nativeBuildInputs = [
            pkgs.pkg-config
            pkgs.rustPlatform.bindgenHook
          ];
          meta = {
            description = "Snowcache: a Nix binary cache for fleets (${binary})";
            license = [
              pkgs.lib.licenses.mit
              pkgs.lib.licenses.asl20
            ];
            mainProgram = binary;
            platforms = systems;
          };
        };
    in
    {
      packages = forAll (pkgs: rec {
        server = build pkgs "snowcache-server" "snowcached";
        client = build pkgs "snowcache" "snowcache";
        default = server;
      });

      checks = forAll (pkgs: { inherit (self.packages.${pkgs.system}) server client; });

      devShells = forAll (pkgs: {
        default = pkgs.mkShell {
          nativeBuildInputs = [
            pkgs.cargo
            pkgs.rustc
            pkgs.clippy
            pkgs.rustfmt
            pkgs.cargo-deny
            pkgs.ccache
            pkgs.gnumake
            pkgs.pkg-config
            pkgs.python3
            pkgs.rustPlatform.bindgenHook
            pkgs.zstd
            pkgs.xz
            pkgs.bzip2
            pkgs.lz4
            pkgs.lzip
            pkgs.brotli
            pkgs.strace
            pkgs.e2fsprogs
            pkgs.xfsprogs
            pkgs.nginx
            pkgs.openssl
          ];
          # What tells the Makefile that it is inside.
          SNOWCACHE_DEV_SHELL = "1";
        };
      });
    };
}
