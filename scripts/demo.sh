#!/usr/bin/env bash
# Shows what Snowcache is for, in a minute, on this machine: two generations of a system are pushed; a node with stock Nix
# fetches the second one; a node with the agent has made it of the first one, verified, before it is wanted; then the cache is
# killed, and the node switches.
#
# usage: scripts/demo.sh        after make build; everything lives in a temporary folder and goes with it
#
# The systems (tests/nix/demo.nix) are forty packages of this machine's own programs; switch-to-configuration is a stand-in that says
# what it was told.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$PWD/target/release
for program in "$bin/snowcached" "$bin/snowcache"; do
  [ -x "$program" ] || { echo "snowcache: $program is missing; run: make build" >&2; exit 1; }
done
work=$(mktemp -d) # everything of the demo
running=()
end() {
  for pid in "${running[@]}"; do
    kill -KILL "$pid" 2>/dev/null || true
    while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
  done
  chmod -R u+w "$work" 2>/dev/null || true
  rm -rf "$work"
}
trap end EXIT

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
now() { date +%s%N; }
took() { awk -v ns="$(($(now) - $1))" 'BEGIN { printf "%.1f", ns / 1e9 }'; }
megabytes() { awk -v n="$1" 'BEGIN { printf (n < 1e6 ? "%.2f" : "%.1f"), n / 1e6 }'; }

# A machine is a folder that lies over /nix. Not root: as root of a user namespace of its own.
namespace=(setpriv --pdeathsig KILL unshare --mount)
[ "$(id -u)" = 0 ] || namespace=(setpriv --pdeathsig KILL unshare --map-root-user --mount)
nix_conf="build-users-group =
sandbox = false
substituters =
experimental-features = nix-command"
on() { # MACHINE SCRIPT
  local home=$work/$1
  mkdir -p "$home/nix" "$home/home"
  env -i PATH="$PATH" HOME="$home/home" NIX_CONFIG="$nix_conf" NIX_REMOTE="${NIX_REMOTE:-local}" NIX_PATH= \
    NIX_CONF_DIR="$home" NIX_DAEMON_SOCKET_PATH="$home/daemon" SNOWCACHE_STATE="$home/state" SNOWCACHE_AGENT="$home/agent" \
    "${namespace[@]}" bash -euo pipefail -c 'mount --bind "$0/nix" /nix; eval "$1"' "$home" "$2"
}

say "1  A cache, and two generations of a system pushed to it"
mkdir -p /nix 2>/dev/null || true
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
url=http://127.0.0.1:$port
RUST_LOG=warn "$bin/snowcached" --data "$work/cache" --listen "127.0.0.1:$port" >"$work/said" 2>"$work/log" &
cache=$!
running+=("$cache")
disown
for _ in $(seq 200); do grep -q '^snowcached ready' "$work/said" && break; sleep 0.05; done
key=$(cat "$work"/cache/keys/*.pub)
sent() {
  curl -sf "$url/metrics" | awk '/^snowcache_http_response_bytes_total/ { n += $2 } END { print n + 0 }'
}

for generation in 1 2; do
  declare "top$generation=$(on builder "nix-build --no-out-link $PWD/tests/nix/demo.nix --argstr generation $generation 2>$work/build.log")"
done
for top in "$top1" "$top2"; do
  on builder "$bin/snowcache --cache $url --token-file $work/cache/push.token push $top" | tail -n 1 | sed 's/^/  /'
done
nar=$(on builder "nix path-info --closure-size $top2" | awk '{ print $2 }')
echo "  a generation has $(on builder "nix-store -qR $top2 | wc -l") paths, $(megabytes "$nar") MB"

say "2  A node with stock Nix has generation 1, and fetches generation 2"
stock="nix copy --option trusted-public-keys '$key' --option require-sigs true --from $url"
on stock "$stock $top1" 2>>"$work/stock.log"
before=$(sent) begin=$(now)
on stock "$stock $top2" 2>>"$work/stock.log"
stock_s=$(took "$begin") stock_bytes=$(($(sent) - before))
echo "  $(megabytes "$stock_bytes") MB in $stock_s s"

say "3  A node with the agent has generation 1, and is told of generation 2 ahead of time"
nix_conf+="
trusted-public-keys = $key"
cat >"$work/agent.toml" <<END
socket = "$work/node/agent"
state = "$work/node/state"
store_socket = "$work/node/daemon"
[fetch]
caches = ["$url"]
END
on node 'exec nix-daemon' 2>"$work/daemon.log" &
running+=($!)
disown
for _ in $(seq 200); do [ -S "$work/node/daemon" ] && break; sleep 0.05; done
on node "exec $bin/snowcache agent --config $work/agent.toml" 2>"$work/agent.log" &
running+=($!)
disown
for _ in $(seq 200); do [ -S "$work/node/agent" ] && break; sleep 0.05; done
on node "$bin/snowcache prefetch $top1 --pin system" | sed 's/^/  /'
on node "$bin/snowcache switch $top1" | sed 's/^/  /'
before=$(sent) begin=$(now)
on node "$bin/snowcache prefetch $top2 --pin system" | sed 's/^/  /'
agent_s=$(took "$begin") agent_bytes=$(($(sent) - before))
echo "  $(megabytes "$agent_bytes") MB in $agent_s s"

say "4  The cache is killed, and the node switches"
kill -KILL "$cache"
while kill -0 "$cache" 2>/dev/null; do sleep 0.05; done
curl -sf "$url/nix-cache-info" >/dev/null && { echo "the cache lives" >&2; exit 1; }
begin=$(now)
on node "$bin/snowcache switch $top2" | sed 's/^/  /'
switch_s=$(took "$begin")
on node "$bin/snowcache why $top2" | sed 's/^/  /'
on node "nix-store --verify --check-contents" 2>&1 | sed 's/^/  nix-store: /'

say "What it took to have generation 2"
bar() { # NAME BYTES SECONDS
  awk -v name="$1" -v n="$2" -v most="$stock_bytes" -v s="$3" 'BEGIN {
    width = int(50 * n / most + 0.5); bar = ""
    for (i = 0; i < width; i++) bar = bar "█"
    if (width == 0) bar = "▏"
    printf "  %-10s %-50s %8.2f MB  %5.1f s\n", name, bar, n / 1e6, s
  }'
}
bar "stock Nix" "$stock_bytes" "$stock_s"
bar "agent" "$agent_bytes" "$agent_s"
awk -v a="$agent_bytes" -v b="$stock_bytes" -v s="$switch_s" 'BEGIN {
  printf "  the agent took %.2f %% of the bytes; the switch took %.1f s, with no cache\n", 100 * a / b, s
}'
