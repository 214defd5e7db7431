#!/usr/bin/env bash
# A private RabbitMQ and Redis for development, from the installed packages:
#
#   eval "$(deploy/local.sh up)"    start them, or find them started; set BOLTHOLE_… in this shell
#   deploy/local.sh status          say what runs; status 0 when both do, 3 when not
#   deploy/local.sh down            stop them; their data stay
#   deploy/local.sh install [PACKAGE…]   only install what is missing (Debian, Ubuntu)
#
# Everything lives in BOLTHOLE_LOCAL_DIR (by default ~/.local/state/bolthole): settings, data, logs.
# Ports and passwords are chosen by the first `up` and then remembered. The servers listen on
# loopback only, and need no privileges.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
readonly here
readonly wanted_dir=${BOLTHOLE_LOCAL_DIR:-${XDG_STATE_HOME:-${HOME:-/tmp}/.local/state}/bolthole}
# Debian's /usr/sbin/rabbitmq-server is a wrapper that refuses ordinary users; this is the script
# behind it.
readonly rabbitmq=/usr/lib/rabbitmq/bin/rabbitmq-server
# In the environment of every server this script starts, with the data folder as value: by this
# `down` knows its own processes from all others.
readonly mark=BOLTHOLE_LOCAL_SERVER
readonly patience_s=120

say() { printf '%s\n' "local.sh: $*" >&2; }
die() { say "$@"; exit 1; }

# --- packages ------------------------------------------------------------------------------------

have_servers() {
    command -v redis-server >/dev/null && command -v redis-cli >/dev/null && [ -x "$rabbitmq" ]
}

# apt waits for dpkg's lock when told to, but gives up at once on the lock of its lists and of its
# archive; this waits for those too.
apt() {
    local become=() errors deadline=$((SECONDS + 900))
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || die "missing packages: ask an administrator for" \
            "'apt-get install redis-server rabbitmq-server'"
        become=(sudo)
    fi
    errors=$(mktemp)
    # Run level 1 is one in which no service is to run, so the packages' own are not started.
    until LC_ALL=C "${become[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get -q -y -o DPkg::Lock::Timeout=900 "$@" >&2 2>"$errors"; do
        if ! grep -q 'Could not get lock' "$errors" || [ "$SECONDS" -ge "$deadline" ]; then
            cat "$errors" >&2
            rm -f "$errors"
            die "apt-get $1 failed"
        fi
        sleep 1
    done
    rm -f "$errors"
}

install_packages() {
    have_servers || set -- redis-server rabbitmq-server "$@"
    if [ $# -gt 0 ]; then
        command -v apt-get >/dev/null || die "Redis 7 and RabbitMQ 3.10 (or newer) are needed," \
            "and this system has no apt-get to install them with. With Docker:" \
            "docker compose -f $here/compose.yaml up -d"
        say "installing $*"
        apt update
        apt install --no-install-recommends "$@"
        have_servers || die "installed, and yet not where Debian puts them: redis-server, $rabbitmq"
    fi
    local version
    version=$(redis-server --version | sed 's/.* v=\([0-9]*\).*/\1/')
    [ "$version" -ge 7 ] || die "Redis 7.0 or newer is needed, this is $version:" \
        "see https://redis.io/docs/latest/operate/oss_and_stack/install/"
}

# --- settings ------------------------------------------------------------------------------------

random_hex() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }

# A port nobody listens on, below those which the kernel gives to outgoing connections.
free_port() {
    local port
    while :; do
        port=$((10000 + $(od -An -N2 -tu2 /dev/urandom) % 20000))
        case " $* " in *" $port "*) continue ;; esac
        (exec 4<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    echo "$port"
}

amqp_password='' redis_password='' secret=''

# Reads the settings of the first `up`, or makes them.
load_settings() {
    if [ ! -s "$dir/settings" ]; then
        amqp_port=$(free_port)
        dist_port=$(free_port "$amqp_port")
        epmd_port=$(free_port "$amqp_port" "$dist_port")
        redis_port=$(free_port "$amqp_port" "$dist_port" "$epmd_port")
        cat >"$dir/settings.new" <<END
amqp_port=$amqp_port
dist_port=$dist_port
epmd_port=$epmd_port
redis_port=$redis_port
amqp_password=$(random_hex 16)
redis_password=$(random_hex 16)
secret=$(random_hex 32)
END
        mv "$dir/settings.new" "$dir/settings"
    fi
    # shellcheck source=/dev/null
    . "$dir/settings"
}

write_configuration() {
    mkdir -p "$dir/redis" "$dir/rabbitmq/conf.d"
    cat >"$dir/redis.conf" <<END
include "$here/redis.conf"
bind 127.0.0.1
port $redis_port
requirepass $redis_password
dir "$dir/redis"
# A changed title would overwrite the environment, and the mark in it.
set-proc-title no
END
    # The user is made with the first boot, and then guest is not.
    cat >"$dir/rabbitmq.conf" <<END
listeners.tcp.1 = 127.0.0.1:$amqp_port
default_user = bolthole
default_pass = $amqp_password
log.console = true
log.console.level = warning
log.file = false
END
    echo '[].' >"$dir/rabbitmq/enabled_plugins"
    : >"$dir/rabbitmq/empty.conf"
    [ -e "$dir/.erlang.cookie" ] || random_hex 16 >"$dir/.erlang.cookie"
    chmod 400 "$dir/.erlang.cookie"
}

# --- processes -----------------------------------------------------------------------------------

# The process that this run of the script started last.
started=none

# The ids of this folder's processes whose program name matches $1 (a pattern of `case`).
own_processes() {
    local environment id name
    { grep -lzxF -- "$mark=$dir" /proc/[0-9]*/environ 2>/dev/null || true; } |
        while read -r environment; do
            id=${environment#/proc/}
            id=${id%/environ}
            name=$(cat "/proc/$id/comm" 2>/dev/null) || continue
            # shellcheck disable=SC2254 # a pattern on purpose
            case $name in $1) echo "$id" ;; esac
        done
}

redis_answers() {
    [ "$(REDISCLI_AUTH=$redis_password redis-cli -h 127.0.0.1 -p "$redis_port" ping 2>/dev/null)" = PONG ]
}

# An AMQP client says its version; a server that has booted answers with a frame of type 1.
rabbitmq_answers() {
    local byte
    {
        printf 'AMQP\0\0\11\1' >&4 && IFS= read -r -t 5 -n 1 -d '' byte <&4 && [ "$byte" = $'\1' ]
    } 4<>"/dev/tcp/127.0.0.1/$amqp_port"
} 2>/dev/null

epmd_answers() { : 4<>"/dev/tcp/127.0.0.1/$epmd_port"; } 2>/dev/null

# start NAME COMMAND…: starts the command in a session of its own, with a clean environment and
# without this script's standard output.
start() {
    local name=$1
    shift
    setsid env -i PATH="$PATH" HOME="$dir" LANG=C.UTF-8 "$mark=$dir" "$@" \
        </dev/null >>"$dir/$name.log" 2>&1 3>&- 9>&- &
    started=$!
}

# await NAME PROGRAM: waits until the server answers, be it started just now or by an `up` that
# was interrupted.
await() {
    local deadline=$((SECONDS + patience_s))
    until "$1_answers"; do
        if [ "$SECONDS" -ge "$deadline" ] ||
            { ! kill -0 "$started" && [ -z "$(own_processes "$2")" ]; } 2>/dev/null; then
            tail -n 20 "$dir/$1.log" >&2
            die "$1 did not start (log: $dir/$1.log). If another program has taken its port," \
                "remove $dir/settings and $dir/rabbitmq to choose anew."
        fi
        sleep 0.1
    done
}

start_redis() {
    [ -n "$(own_processes redis-server)" ] || start redis redis-server "$dir/redis.conf"
    await redis redis-server
}

start_rabbitmq() {
    local erlang='-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}'
    local settings=(
        ERL_EPMD_ADDRESS=127.0.0.1
        ERL_EPMD_PORT="$epmd_port"
        # "Input" makes the script become the server instead of its parent, so that signals reach
        # the server; the argument then takes the input away again.
        RABBITMQ_ALLOW_INPUT=1
        RABBITMQ_SERVER_START_ARGS=-noinput
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="$erlang"
        RABBITMQ_NODENAME="bolthole$amqp_port@localhost"
        RABBITMQ_NODE_PORT="$amqp_port"
        RABBITMQ_DIST_PORT="$dist_port"
        RABBITMQ_CONF_ENV_FILE="$dir/rabbitmq/empty.conf"
        RABBITMQ_CONFIG_FILE="$dir/rabbitmq.conf"
        RABBITMQ_CONFIG_FILES="$dir/rabbitmq/conf.d"
        RABBITMQ_ENABLED_PLUGINS_FILE="$dir/rabbitmq/enabled_plugins"
        RABBITMQ_GENERATED_CONFIG_DIR="$dir/rabbitmq/generated"
        RABBITMQ_LOG_BASE="$dir/rabbitmq/log"
        RABBITMQ_MNESIA_BASE="$dir/rabbitmq/mnesia"
        RABBITMQ_PID_FILE="$dir/rabbitmq/pid"
        RABBITMQ_SCHEMA_DIR="$dir/rabbitmq/schema"
    )
    # Started here: the one that Erlang starts by itself would not be known as ours.
    [ -n "$(own_processes epmd)" ] || start epmd epmd -address 127.0.0.1 -port "$epmd_port"
    await epmd epmd
    [ -n "$(own_processes beam.smp)" ] || start rabbitmq "${settings[@]}" "$rabbitmq"
    await rabbitmq beam.smp
}

# --- commands ------------------------------------------------------------------------------------

# Makes `dir` the data folder's real name, and holds its lock until this script ends.
enter() {
    mkdir -p "$wanted_dir"
    dir=$(cd "$wanted_dir" && pwd -P)
    exec 9>"$dir/lock"
    flock -w 600 9 || die "another local.sh has been busy in $dir for ten minutes"
}

up() {
    # Standard output is for the shell that evaluates it: only the last lines go there.
    exec 3>&1 1>&2
    umask 077
    install_packages
    enter
    load_settings
    write_configuration
    start_redis
    start_rabbitmq
    say "RabbitMQ and Redis run on ports $amqp_port and $redis_port; logs and data are in $dir"
    cat >&3 <<END
export BOLTHOLE_AMQP_URL='amqp://bolthole:$amqp_password@127.0.0.1:$amqp_port/%2f'
export BOLTHOLE_REDIS_URL='redis://default:$redis_password@127.0.0.1:$redis_port/0'
export BOLTHOLE_SECRET='$secret'
END
}

# finish SIGNAL PATTERN: sends the signal and waits until none is left; fails at the deadline.
finish() {
    local ids deadline=$((SECONDS + 60))
    ids=$(own_processes "$2")
    # shellcheck disable=SC2086 # one word each
    [ -z "$ids" ] || kill -s "$1" $ids 2>/dev/null || true
    while [ -n "$(own_processes "$2")" ]; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.1
    done
}

down() {
    if [ ! -e "$wanted_dir" ]; then
        say "nothing runs, there is no $wanted_dir"
        return
    fi
    enter
    # The servers first and in good order, then what served them.
    finish TERM redis-server || say "redis did not stop when asked"
    finish TERM beam.smp || say "rabbitmq did not stop when asked"
    finish KILL '*' || die "these do not even end when killed: $(own_processes '*' | xargs)"
    say "stopped; the data stay in $dir"
}

status() {
    local both=0 dir=$wanted_dir
    [ -d "$dir" ] && dir=$(cd "$dir" && pwd -P)
    if [ -s "$dir/settings" ]; then
        load_settings
        report RabbitMQ beam.smp rabbitmq_answers "$amqp_port" || both=3
        report Redis redis-server redis_answers "$redis_port" || both=3
    else
        echo "never started in $dir"
        both=3
    fi
    return "$both"
}

# report NAME PROGRAM CHECK PORT
report() {
    local id
    id=$(own_processes "$2")
    if [ -z "$id" ]; then
        echo "$1: stopped"
        return 1
    elif ! "$3"; then
        echo "$1: process $id does not answer on port $4"
        return 1
    fi
    echo "$1: runs on port $4, process $id"
}

[ -d /proc/self ] || die "this script needs Linux. With Docker:" \
    "docker compose -f $here/compose.yaml up -d"
case ${1:-} in
    up | down | status) "$1" ;;
    install) shift && install_packages "$@" ;;
    *) die "usage: deploy/local.sh up | down | status | install [PACKAGE…]" ;;
esac
