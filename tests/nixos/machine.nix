# The options of NixOS that our modules set, and nothing else: who sets another one finds that it does not exist.
{ lib, ... }:
let
  inherit (lib) mkOption types;
  set = mkOption { type = types.attrsOf types.anything; default = { }; };
  list = type: mkOption { type = types.listOf type; default = [ ]; };
in
{
  options = {
    assertions = list types.anything;
    environment.systemPackages = list types.package;
    environment.variables = set;
    networking.firewall.allowedTCPPorts = list types.int;
    nix.package = mkOption { type = types.anything; default = "/usr"; };
    nix.settings = set;
    system.preSwitchChecks = set;
    systemd.paths = set;
    systemd.services = set;
    systemd.sockets = set;
    systemd.tmpfiles.rules = list types.str;
    users.groups = set;
    users.users = set;
  };
}
