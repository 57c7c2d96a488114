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
      systemOf = pkgs: pkgs.stdenv.hostPlatform.system;
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

      # Each brings the package of this flake for the machine that it is on.
      nixosModules = {
        server =
          { lib, pkgs, ... }:
          {
            imports = [ ./config/nixos/server.nix ];
            services.snowcached.package = lib.mkDefault self.packages.${systemOf pkgs}.server;
          };
        agent =
          { lib, pkgs, ... }:
          {
            imports = [ ./config/nixos/agent.nix ];
            services.snowcache-agent.package = lib.mkDefault self.packages.${systemOf pkgs}.client;
          };
      };

      # The packages build; NixOS takes the modules, and the server the file that they make.
      checks = forAll (pkgs: {
        inherit (self.packages.${systemOf pkgs}) server client;
        unit =
          (nixpkgs.lib.nixosSystem {
            system = systemOf pkgs;
            modules = [
              self.nixosModules.server
              self.nixosModules.agent
              {
                boot.isContainer = true;
                system.stateVersion = "25.05";
                services.snowcached.enable = true;
                services.snowcached.settings.cache.priority = 20;
                services.snowcache-agent.enable = true;
              }
            ];
          }).config.systemd.units."snowcached.service".unit;
      });

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
            pkgs.crun
            pkgs.kubectl
            pkgs.systemd
          ];
          # What tells the Makefile that it is inside.
          SNOWCACHE_DEV_SHELL = "1";
        };
      });
    };
}
