#!/bin/sh
# Hydra: queues what a successful build put out, as a command of its RunCommand plugin. It is run by hydra-notify on Hydra's own
# machine, so it works wherever the build was made. In hydra.conf:
#
#   <runcommand>
#     job = *:*:*
#     command = SNOWCACHE_SPOOL=/var/lib/hydra/snowcache-queue /etc/nix/hydra-runcommand
#   </runcommand>
#
# The spool belongs to the user of hydra-notify, whose `snowcache queue run` pushes it; Nix's daemon makes the roots. Needs jq.
set -eu
if [ "$(jq -r '.event + " " + (.buildStatus | tostring)' "$HYDRA_JSON")" != 'buildFinished 0' ]; then
  exit 0
fi
jq -r '.outputs[].path' "$HYDRA_JSON" | xargs -r "${SNOWCACHE:-/usr/local/bin/snowcache}" hook --strict
