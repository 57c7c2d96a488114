# A machine with our modules and `settings` (a module), as JSON to look at: units as text, the file of the
# server, failed assertions.
#
# nix-instantiate --eval --strict --json --read-write-mode tests/nixos/eval.nix -A report \
#   --arg settings '{ services.snowcached.enable = true; }'
{
  settings,
  # The folder above bin/snowcached and bin/snowcache.
  programs ? "/usr/local",
  # nixpkgs' own, where one has it: --arg lib 'import <nixpkgs/lib>'
  lib ? import ./stand-in.nix,
}:
let
  inherit (builtins) attrNames concatMap concatStringsSep filter isBool isList listToAttrs map;
  pkgs = import ./pkgs.nix { inherit lib; };
  package = {
    type = "derivation";
    name = "snowcache";
    outPath = programs;
  };
  evaluated = lib.evalModules {
    specialArgs = { inherit pkgs; };
    modules = [
      ./machine.nix
      ../../config/nixos/server.nix
      ../../config/nixos/agent.nix
      {
        services.snowcached.package = lib.mkDefault package;
        services.snowcache-agent.package = lib.mkDefault package;
      }
      settings
    ];
  };
  inherit (evaluated) config;

  # As NixOS writes units: a list is a key that is repeated.
  word = value: if isBool value then (if value then "true" else "false") else toString value;
  line = key: value: if isList value then map (item: "${key}=${word item}") value else [ "${key}=${word value}" ];
  section = name: set: [ "[${name}]" ] ++ concatMap (key: line key set.${key}) (attrNames set) ++ [ "" ];
  head = unit: {
    Description = unit.description;
    ${if unit ? requires then "Requires" else null} = unit.requires;
    ${if unit ? after then "After" else null} = unit.after;
  } // (unit.unitConfig or { });
  text =
    part: unit:
    concatStringsSep "\n" (
      section "Unit" (head unit)
      ++ section part (unit."${{ Service = "service"; Socket = "socket"; Path = "path"; }.${part}}Config")
      ++ section "Install" { WantedBy = unit.wantedBy; }
    );
  all = part: units: listToAttrs (map (name: { inherit name; value = text part units.${name}; }) (attrNames units));
in
{
  report = {
    services = all "Service" config.systemd.services;
    sockets = all "Socket" config.systemd.sockets;
    paths = all "Path" config.systemd.paths;
    checks = config.system.preSwitchChecks;
    failed = map (check: check.message) (filter (check: !check.assertion) config.assertions);
    ports = config.networking.firewall.allowedTCPPorts;
    tmpfiles = config.systemd.tmpfiles.rules;
    users = attrNames config.users.users;
    nix = config.nix.settings;
    variables = config.environment.variables;
    packages = map toString config.environment.systemPackages;
  };
  agent = pkgs.runCommand "agent" { } ''
    echo '${config.systemd.services.snowcache-agent.serviceConfig.ExecStart}' >$out
  '';
  # To build it is to build all that the service's command line needs.
  start = pkgs.runCommand "start" { } ''
    echo '${config.systemd.services.snowcached.serviceConfig.ExecStart}' >$out
  '';
}
