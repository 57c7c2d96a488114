# A node that reads from Snowcache: `services.snowcache-agent`.
#
# It sets nix.conf so that this cache is asked first, believed by its key, and left in time when it does not answer; installs the
# `snowcache` command; and runs the agent, which brings closures here before a switch needs them. Its unit is
# config/systemd/snowcache-agent.service; a test compares the two.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkEnableOption mkIf mkOption types;
  cfg = config.services.snowcache-agent;
  toml = pkgs.formats.toml { };

  urls = map (cache: cache.url) cfg.caches;
  # What is said of caches holds for the agent as well.
  fetch = lib.optionalAttrs (urls != [ ]) { caches = urls; } // (cfg.settings.fetch or { });
  written = toml.generate "agent.toml" (cfg.settings // lib.optionalAttrs (fetch != { }) { inherit fetch; });
  # A key that does not exist, or a value that cannot be, fails the build of the system instead of the start.
  checked = pkgs.runCommand "agent.toml" { } ''
    ${cfg.package}/bin/snowcache agent --config ${written} --check-config
    cp ${written} $out
  '';
  file = if cfg.checkConfig then checked else written;
  url = cache: cache.url + lib.optionalString (cache.priority != null) "?priority=${toString cache.priority}";
in
{
  options.services.snowcache-agent = {
    enable = mkEnableOption "Snowcache as a substituter of this machine";

    package = mkOption {
      type = types.package;
      description = "The package with `bin/snowcache`.";
    };

    caches = mkOption {
      type = types.listOf (
        types.submodule {
          options = {
            url = mkOption {
              type = types.strMatching "https?://[^ ?]+";
              example = "http://cache.example.org:8420";
              description = "Where the cache is.";
            };
            publicKeys = mkOption {
              type = types.listOf (types.strMatching "[^ :/]+:[A-Za-z0-9+/=]+");
              example = [ "cache.example.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=" ];
              description = "Its keys, as in DATA/keys/*.pub; two while one replaces the other.";
            };
            priority = mkOption {
              type = types.nullOr types.ints.unsigned;
              default = null;
              example = 50;
              description = "In place of the priority that the cache says of itself (30). The lowest is asked first; cache.nixos.org has 40.";
            };
          };
        }
      );
      default = [ ];
      description = "The caches. They are added to the substituters that the machine has.";
    };

    daemon = mkOption {
      type = types.bool;
      default = true;
      description = "Whether the agent runs; otherwise `snowcache prefetch` does the work itself.";
    };

    settings = mkOption {
      type = toml.type;
      default = { };
      example = {
        group = "wheel";
        fetch.rate = "50MB/s";
        follow = [ { pin = "web"; as = "system"; } ];
      };
      description = ''
        The agent's configuration, key by key as in config/agent.toml, which explains each of them. What is not given has
        the default shown there, and `fetch.caches` are those of `caches`.
      '';
    };

    gate = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Whether a switch to a system that is not ready is refused, whatever tool switches: nixos-rebuild, colmena, deploy-rs
        and comin all ask `system.preSwitchChecks`. `NIXOS_NO_CHECK=1` passes it by.
      '';
    };

    proxy = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "http://proxy.example.org:3128";
      description = "A proxy through which the agent reaches the caches; none for the machine itself.";
    };

    checkConfig = mkOption {
      type = types.bool;
      default = true;
      description = ''
        Whether to check the settings while the system is built. To be turned off where snowcache cannot run on the machine
        that builds.
      '';
    };

    connectTimeoutSeconds = mkOption {
      type = types.ints.positive;
      default = 5;
      description = "Seconds after which nix gives up to connect (`connect-timeout`; nix's own: 0, which is 300).";
    };

    stalledDownloadTimeoutSeconds = mkOption {
      type = types.ints.positive;
      default = 5;
      description = ''
        Seconds after which nix gives up a download of which no byte arrives (`stalled-download-timeout`; nix's own: 300).
        It then tries `downloadAttempts` times in all before it turns to the next substituter.
      '';
    };

    downloadAttempts = mkOption {
      type = types.ints.positive;
      default = 3;
      description = "How often nix tries a download before it turns to the next substituter (`download-attempts`; nix's own: 5).";
    };
  };

  config = mkIf cfg.enable {
    assertions = [
      {
        assertion = lib.all (cache: cache.publicKeys != [ ]) cfg.caches;
        message = "services.snowcache-agent.caches: a cache without publicKeys is not believed by nix; give what is in DATA/keys/*.pub.";
      }
    ];

    environment.systemPackages = [ cfg.package ];
    environment.variables = mkIf (cfg.caches != [ ]) {
      SNOWCACHE_URL = lib.mkDefault (lib.head cfg.caches).url;
    };

    nix.settings = {
      substituters = map url cfg.caches;
      trusted-public-keys = lib.concatMap (cache: cache.publicKeys) cfg.caches;
      connect-timeout = cfg.connectTimeoutSeconds;
      stalled-download-timeout = cfg.stalledDownloadTimeoutSeconds;
      download-attempts = cfg.downloadAttempts;
      # Also makes nix leave a cache alone for a minute that did not answer; without it, it waits anew for every path.
      fallback = lib.mkDefault true;
    };

    system.preSwitchChecks = mkIf cfg.gate {
      snowcache = ''
        case "''${2-switch}" in
          switch | boot | test) ${cfg.package}/bin/snowcache gate "$1" ;;
        esac
      '';
    };

    # A switch by `snowcache switch` that was left, by a reboot or because it was killed, is confirmed or gone back from.
    systemd.paths.snowcache-confirm = mkIf cfg.daemon {
      description = "Snowcache, notices a switch";
      wantedBy = [ "paths.target" ];
      pathConfig = {
        PathExists = "/var/lib/snowcache-agent/trial.json";
        Unit = "snowcache-confirm.service";
      };
    };

    systemd.services.snowcache-confirm = mkIf cfg.daemon {
      description = "Snowcache, confirms a switch or goes back";
      wantedBy = [ "multi-user.target" ];
      after = [
        "network.target"
        "nix-daemon.socket"
        "multi-user.target"
      ];
      # It may be what switches.
      restartIfChanged = false;
      stopIfChanged = false;
      path = [ config.nix.package ];
      unitConfig.ConditionPathExistsGlob = "/var/lib/snowcache-agent/trial*.json";
      serviceConfig = {
        Type = "oneshot";
        ExecStart = "${cfg.package}/bin/snowcache confirm --decide";
        TimeoutStartSec = "infinity";
      };
    };

    systemd.services.snowcache-agent = mkIf cfg.daemon {
      description = "Snowcache, brings closures to this node";
      wantedBy = [ "multi-user.target" ];
      after = [
        "network.target"
        "nix-daemon.socket"
      ];
      unitConfig.StartLimitIntervalSec = 0;
      serviceConfig = {
        Type = "notify";
        ExecStart = "${cfg.package}/bin/snowcache agent --config ${file}";
        Restart = "on-failure";
        RestartSec = 2;
        TimeoutStopSec = 10;
        WatchdogSec = 60;

        StateDirectory = "snowcache-agent";
        StateDirectoryMode = "0755";
        RuntimeDirectory = "snowcache-agent";
        RuntimeDirectoryMode = "0755";
        RuntimeDirectoryPreserve = true;
        UMask = "0022";
        AmbientCapabilities = "";
        CapabilityBoundingSet = "";
        DevicePolicy = "closed";
        KeyringMode = "private";
        LockPersonality = true;
        MemoryDenyWriteExecute = true;
        NoNewPrivileges = true;
        PrivateDevices = true;
        PrivateMounts = true;
        PrivateTmp = true;
        ProcSubset = "pid";
        ProtectClock = true;
        ProtectControlGroups = true;
        ProtectHome = true;
        ProtectHostname = true;
        ProtectKernelLogs = true;
        ProtectKernelModules = true;
        ProtectKernelTunables = true;
        ProtectProc = "invisible";
        ProtectSystem = "strict";
        RemoveIPC = true;
        RestrictAddressFamilies = "AF_UNIX AF_INET AF_INET6";
        RestrictNamespaces = true;
        RestrictRealtime = true;
        RestrictSUIDSGID = true;
        SystemCallArchitectures = "native";
        SystemCallErrorNumber = "EPERM";
        SystemCallFilter = [
          "@system-service"
          "~@privileged @resources"
        ];
      }
      // lib.optionalAttrs (cfg.proxy != null) {
        Environment = [
          "all_proxy=${cfg.proxy}"
          "no_proxy=localhost,127.0.0.1,::1"
        ];
      };
    };
  };
}
