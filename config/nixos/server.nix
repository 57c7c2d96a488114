# snowcached as a NixOS service: `services.snowcached`.
#
# What it makes is config/systemd/snowcached.{service,socket} with what the settings change; a test compares the two.
# Keys, tokens and the depot are made at the first start and stay in settings.data: they are never in the Nix store.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkEnableOption mkIf mkOption types;
  cfg = config.services.snowcached;
  toml = pkgs.formats.toml { };

  home = "/var/lib/snowcache";
  written = toml.generate "snowcached.toml" (cfg.settings // { listen = "systemd"; });
  # A key that does not exist, or a value that cannot be, fails the build of the system instead of the start. The certificate is
  # not there while it is built, nor is the file of issuers.
  checked = pkgs.runCommand "snowcached.toml" { } ''
    SNOWCACHE_TLS_CERTIFICATE_FILE= SNOWCACHE_TLS_KEY_FILE= SNOWCACHE_AUTH_ISSUERS_FILE= \
      ${cfg.package}/bin/snowcached --config ${written} check-config
    cp ${written} $out
  '';
  file = if cfg.checkConfig then checked else written;

  # "ADDRESS:PORT" or "unix:PATH", as systemd writes it.
  stream = listen: lib.removePrefix "unix:" listen;
  tcp = listen: !(lib.hasPrefix "unix:" listen);
  port = listen: lib.toInt (lib.last (lib.splitString ":" listen));
  loopback = listen: lib.hasPrefix "127." listen || lib.hasPrefix "[::1]:" listen;

  # Metrics on addresses of their own are the one thing that it binds itself.
  metricsListen = lib.filter (listen: listen != "") (lib.toList (cfg.settings.metrics.listen or [ ]));
  binds = metricsListen != [ ];
  # Issuers of identities are asked for their keys, unless a file has them.
  online = binds || (cfg.settings.auth.issuers_file or "") != "";
  open = lib.filter (listen: tcp listen && !(loopback listen)) (cfg.settings.listen ++ metricsListen);

  http = cfg.settings.http or { };
  stopSeconds = (http.drain_delay_s or 0) + (http.shutdown_grace_s or 30) + 60;
in
{
  options.services.snowcached = {
    enable = mkEnableOption "snowcached, a Nix binary cache";

    package = mkOption {
      type = types.package;
      description = "The package with `bin/snowcached`.";
    };

    settings = mkOption {
      type = types.submodule {
        freeformType = toml.type;
        options = {
          listen = mkOption {
            type = types.listOf types.str;
            default = [ "127.0.0.1:8420" ];
            example = [
              "0.0.0.0:8420"
              "[::]:8420"
              "unix:/run/snowcache/http.sock"
            ];
            description = ''
              Where to listen: "ADDRESS:PORT" or "unix:PATH". systemd holds these sockets and hands them over, so that nobody
              is refused while the service restarts, and the service itself needs no network.
            '';
          };
          data = mkOption {
            type = types.str;
            default = home;
            description = "The folder of everything that is kept: signing keys, tokens, the depot.";
          };
        };
      };
      default = { };
      example = {
        listen = [ "0.0.0.0:8420" ];
        public_url = "https://cache.example.org";
        cache.priority = 30;
        depot.max_size_bytes = 500000000000;
        retention.max_age_s = 7776000;
      };
      description = ''
        The configuration, key by key as in config/snowcached.toml, which explains each of them. What is not given has
        the default shown there.
      '';
    };

    environmentFile = mkOption {
      type = types.nullOr types.path;
      default = null;
      example = "/run/secrets/snowcached";
      description = ''
        A file with lines SNOWCACHE_<SECTION>_<KEY>=value, which win over `settings`: for what should not be readable in
        the Nix store.
      '';
    };

    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = "Whether to open the ports of `settings.listen` and `settings.metrics.listen` that are not the loopback's.";
    };

    checkConfig = mkOption {
      type = types.bool;
      default = true;
      description = ''
        Whether to check the settings while the system is built. To be turned off where snowcached cannot run on the
        machine that builds.
      '';
    };
  };

  config = mkIf cfg.enable {
    assertions = [
      {
        assertion = cfg.settings.listen != [ ];
        message = "services.snowcached.settings.listen is empty: name an address, as in [ \"127.0.0.1:8420\" ].";
      }
      {
        assertion = lib.hasPrefix "/" cfg.settings.data;
        message = "services.snowcached.settings.data is ${cfg.settings.data}: it must be an absolute path.";
      }
    ];

    users.users.snowcache = {
      isSystemUser = true;
      group = "snowcache";
      inherit home;
      description = "Snowcache, a Nix binary cache";
    };
    users.groups.snowcache = { };

    networking.firewall.allowedTCPPorts = mkIf cfg.openFirewall (lib.unique (map port open));

    systemd.tmpfiles.rules = mkIf (cfg.settings.data != home) [
      "d ${cfg.settings.data} 0700 snowcache snowcache -"
    ];

    systemd.sockets.snowcached = {
      description = "The addresses of snowcached, a Nix binary cache";
      wantedBy = [ "sockets.target" ];
      socketConfig = {
        ListenStream = map stream cfg.settings.listen;
        Backlog = 65535;
      }
      # Both families on one port are two sockets then.
      // lib.optionalAttrs (lib.any (lib.hasPrefix "0.0.0.0:") cfg.settings.listen) {
        BindIPv6Only = "ipv6-only";
      };
    };

    systemd.services.snowcached = {
      description = "Snowcache, a Nix binary cache";
      wantedBy = [ "multi-user.target" ];
      requires = [ "snowcached.socket" ];
      after = [ "snowcached.socket" ];
      # With a new binary or new settings it starts anew; the sockets stay.
      unitConfig.StartLimitIntervalSec = 0;
      serviceConfig = {
        Type = "notify";
        ExecStart = "${cfg.package}/bin/snowcached --config ${file}";
        ExecReload = "${pkgs.coreutils}/bin/kill -HUP $MAINPID";
        Restart = "on-failure";
        RestartSec = 2;
        TimeoutStartSec = "infinity";
        TimeoutStopSec = stopSeconds;
        WatchdogSec = 60;
        # What it prints when it is ready is for people; it logs to stderr.
        StandardOutput = "null";
        StandardError = "journal";

        User = "snowcache";
        Group = "snowcache";
        StateDirectory = "snowcache";
        StateDirectoryMode = "0700";
        UMask = "0077";
        LimitNOFILE = 65536;

        PrivateNetwork = !online;
        RestrictAddressFamilies = [
          "AF_UNIX"
        ]
        ++ lib.optionals online [
          "AF_INET"
          "AF_INET6"
        ];

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
        PrivateUsers = true;
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
        RestrictNamespaces = true;
        RestrictRealtime = true;
        RestrictSUIDSGID = true;
        SystemCallArchitectures = "native";
        SystemCallErrorNumber = "EPERM";
        SystemCallFilter = [
          "@system-service"
          "~@privileged @resources"
          # The scrub steps back behind everything else.
          "sched_setscheduler"
          "setpriority"
        ];
      }
      // lib.optionalAttrs (!online) { IPAddressDeny = "any"; }
      // lib.optionalAttrs (cfg.environmentFile != null) { EnvironmentFile = cfg.environmentFile; }
      // lib.optionalAttrs (cfg.settings.data != home) { ReadWritePaths = [ cfg.settings.data ]; };
    };
  };
}
