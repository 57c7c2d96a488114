# A node that reads from Snowcache: `services.snowcache-agent`.
#
# There is no daemon yet: it sets nix.conf so that this cache is asked first, believed by its key, and left in time when it
# does not answer; and installs the `snowcache` command.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkEnableOption mkIf mkOption types;
  cfg = config.services.snowcache-agent;
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
  };
}
