# shellcheck shell=sh
# The commands of the runbooks, for `cargo xtask up`, Docker Compose and Kubernetes alike. Source this file in the root of
# the repository: . docs/runbooks/commands.sh
#
# TENANTRY_PLATFORM is `up`, `compose` or `kubernetes`. By default it is `up` while `cargo xtask up` is running, otherwise
# `compose`. README.md in this folder lists the commands; they need jq and curl.

# ---- names and ports ---------------------------------------------------------------------------------------------------

# cargo xtask up: `env` holds the ports and programs, `run.json` the processes, `logs` a file for each.
tenantry_dev=$(cd "${TENANTRY_DEV:-.dev}" >/dev/null 2>&1 && pwd) || tenantry_dev=${TENANTRY_DEV:-.dev}

# Docker Compose: the services of docker-compose.yml in this folder.
tenantry_root=$PWD

# Kubernetes: pods are labelled app.kubernetes.io/name=SERVICE.
tenantry_namespace=${TENANTRY_NAMESPACE:-tenantry}
tenantry_workload() {
  case $1 in
  mongo | redis) echo "statefulset/$1" ;;
  *) echo "deployment/$1" ;;
  esac
}

# Compose publishes both on loopback. For Kubernetes, set TENANTRY_PROMETHEUS_URL and TENANTRY_ALERTMANAGER_URL.
tenantry_compose_prometheus=http://127.0.0.1:9090
tenantry_compose_alertmanager=http://127.0.0.1:9093

# ---- the platform --------------------------------------------------------------------------------------------------------

tenantry_up_runs() {
  kill -0 "$(jq -r '.supervisor.pid' "$tenantry_dev/run.json" 2>/dev/null)" 2>/dev/null
}

tenantry_platform=${TENANTRY_PLATFORM:-}
if [ -z "$tenantry_platform" ]; then
  if tenantry_up_runs; then tenantry_platform=up; else tenantry_platform=compose; fi
fi
case $tenantry_platform in
up | compose | kubernetes) ;;
*)
  echo "commands.sh: TENANTRY_PLATFORM is '$tenantry_platform' instead of up, compose or kubernetes" >&2
  return 1
  ;;
esac
case $- in
*i*) echo "These commands run on the platform '$tenantry_platform'; set TENANTRY_PLATFORM to change it." ;;
esac

tenantry_fail() {
  echo "commands.sh: $1" >&2
  exit "${2:-1}"
}

tenantry_missing() {
  tenantry_fail "$1 is missing: $2" 127
}

# Sets the variables of `cargo xtask up`. They are read each time, because its ports may change.
tenantry_up() {
  [ -r "$tenantry_dev/env" ] || tenantry_fail "$tenantry_dev/env does not exist: run \`cargo xtask up\`, or set TENANTRY_PLATFORM"
  set -a
  # shellcheck source=/dev/null
  . "$tenantry_dev/env"
  set +a
}

# The name of a service among the processes of `cargo xtask up`.
tenantry_process() {
  case $1 in
  mongo) echo mongod ;;
  *) echo "$1" ;;
  esac
}

# The process id of a service of `cargo xtask up`.
tenantry_pid() {
  jq -er --arg name "$(tenantry_process "$1")" '.processes[$name].pid' "$tenantry_dev/run.json" 2>/dev/null ||
    tenantry_fail "\`cargo xtask up\` runs no $1"
}

tenantry_compose() (
  cd "$tenantry_root" && exec docker compose "$@"
)

tenantry_kubectl() {
  kubectl --namespace "$tenantry_namespace" "$@"
}

# Runs a command in a container of a service.
tenantry_inside() (
  service=$1
  shift
  case $tenantry_platform in
  compose) tenantry_compose exec -T "$service" "$@" ;;
  *) tenantry_kubectl exec "$(tenantry_workload "$service")" -- "$@" ;;
  esac
)

# ---- the programs ----------------------------------------------------------------------------------------------------------

# Runs one of our programs with the configuration of the installation; with Compose in a container of its own, so that it
# works while the service is down.
tenantry_program() (
  program=$1
  case $tenantry_platform in
  up)
    tenantry_up
    shift
    exec "$TENANTRY_PROGRAMS/$program" "$@"
    ;;
  compose) tenantry_compose run --rm --no-deps -T "$program" "$@" ;;
  *) tenantry_inside "$program" "$@" ;;
  esac
)

api() { tenantry_program api "$@"; }
worker() { tenantry_program worker "$@"; }

# ---- Redis and MongoDB -----------------------------------------------------------------------------------------------------

# redis_cli ARGUMENTS…
redis_cli() (
  case $tenantry_platform in
  up)
    tenantry_up
    [ -x "${TENANTRY_REDIS_CLI:-}" ] || tenantry_missing redis-cli "install the Debian package redis-tools and restart \`cargo xtask up\`"
    LD_LIBRARY_PATH=$TENANTRY_REDIS_LIBRARIES exec "$TENANTRY_REDIS_CLI" -e -u "$TENANTRY__REDIS__URL" "$@"
    ;;
  *)
    # shellcheck disable=SC2016 # expanded in the container
    tenantry_inside redis sh -c 'REDISCLI_AUTH=$(cat /run/secrets/redis_password) exec redis-cli -e "$@"' - "$@"
    ;;
  esac
)

# mongo_command [DATABASE] COMMAND: runs a database command and prints the reply; both are Extended JSON. The database is
# that of the product unless given. It needs no MongoDB shell.
mongo_command() (
  database=tenantry
  if [ $# -gt 1 ]; then
    database=$1
    shift
  fi
  case $tenantry_platform in
  up)
    tenantry_up
    exec "$TENANTRY_PROGRAMS/testkit" mongo --uri "$TENANTRY__MONGODB__URI" --database "$database" "$1"
    ;;
  *)
    # shellcheck disable=SC2016 # expanded in the container
    tenantry_mongosh 'print(EJSON.stringify(db.getSiblingDB(process.env.DATABASE).runCommand(EJSON.parse(process.env.COMMAND))))' \
      "$database" "$1"
    ;;
  esac
)

# Evaluates a script in the container of MongoDB, with DATABASE and COMMAND in its environment.
tenantry_mongosh() {
  # shellcheck disable=SC2016 # expanded in the container
  tenantry_inside mongo sh -c '
    export DATABASE="$2" COMMAND="$3"
    exec mongosh --quiet --norc --eval "$1" "mongodb://root:$(cat /run/secrets/mongo_root_password)@127.0.0.1/tenantry?authSource=admin"
  ' - "$@" </dev/null
}

# ---- logs ------------------------------------------------------------------------------------------------------------------

# logs SERVICE [SINCE]: the JSON lines of its log, of the last 15 minutes or the time given (30s, 5m, 2h). Other lines, such
# as a panic message, are left out; log_end shows them.
logs() (
  since=${2:-15m}
  case $tenantry_platform in
  up)
    from=$(jq -nr --arg since "$since" '
      ($since | capture("^(?<count>[0-9]+)(?<unit>[smhd])$")) as $age
      | now - ($age.count | tonumber) * {s: 1, m: 60, h: 3600, d: 86400}[$age.unit] | floor | todate')
    [ -n "$from" ] || tenantry_fail "'$since' is not a time such as 30s, 5m or 2h"
    # MongoDB's lines have their time in another field.
    jq -cR --arg from "$from" 'fromjson? | objects | select((.timestamp // .t["$date"]? // "") >= $from)' \
      "$tenantry_dev/logs/$(tenantry_process "$1").log"
    ;;
  compose) tenantry_compose logs --no-log-prefix --since "$since" "$1" | jq -cR 'fromjson? | objects' ;;
  *)
    tenantry_kubectl logs --selector "app.kubernetes.io/name=$1" --tail=-1 --since="$since" --max-log-requests=100 |
      jq -cR 'fromjson? | objects'
    ;;
  esac
)

# log_end SERVICE [LINES]: the last 50 lines of its log, or as many as given, as they were written.
log_end() (
  case $tenantry_platform in
  up) tail -n "${2:-50}" "$tenantry_dev/logs/$(tenantry_process "$1").log" ;;
  compose) tenantry_compose logs --no-log-prefix --tail "${2:-50}" "$1" ;;
  *) tenantry_kubectl logs --selector "app.kubernetes.io/name=$1" --tail="${2:-50}" --prefix ;;
  esac
)

# ---- processes -------------------------------------------------------------------------------------------------------------

# status [SERVICE…]: the processes of these services or of all: whether they run, how often they were restarted, and how they
# ended the last time.
status() (
  case $tenantry_platform in
  up) tenantry_up_status "$@" ;;
  compose)
    containers=$(tenantry_compose ps --all --quiet "$@")
    [ -n "$containers" ] || tenantry_fail "there is no such container; \`docker compose up\` creates them"
    echo "$containers" | xargs docker inspect --format '{{.Name}} {{.State.Status}} since={{.State.StartedAt}} restarts={{.RestartCount}} exit={{.State.ExitCode}} OOMKilled={{.State.OOMKilled}}'
    ;;
  *)
    names=$(printf '%s,' "$@")
    if [ $# -gt 0 ]; then set -- --selector "app.kubernetes.io/name in (${names%,})"; fi
    tenantry_kubectl get pods "$@" --output 'custom-columns=NAME:.metadata.name,PHASE:.status.phase,SINCE:.status.startTime,RESTARTS:.status.containerStatuses[*].restartCount,EXIT:.status.containerStatuses[*].lastState.terminated.exitCode,REASON:.status.containerStatuses[*].lastState.terminated.reason'
    ;;
  esac
)

tenantry_up_status() {
  services=
  [ -r "$tenantry_dev/run.json" ] || tenantry_fail "\`cargo xtask up\` is not running"
  for service; do
    tenantry_pid "$service" >/dev/null
    services="$services $(tenantry_process "$service")"
  done
  jq -r --arg services "$services" '
    ($services | split(" ") | map(select(. != ""))) as $wanted
    | .processes | to_entries[] | select(($wanted | length) == 0 or (.key | IN($wanted[])))
    | "\(.key) \(.value.pid) \(.value.port) \(.value.restarts) \(.value.last_exit // "-")"' "$tenantry_dev/run.json" |
    while read -r name pid port restarts last_exit; do
      if kill -0 "$pid" 2>/dev/null; then state=running; else state=ended; fi
      echo "$name $state pid=$pid port=$port restarts=$restarts last_exit=$last_exit"
    done
}

# disk SERVICE: the disk that the data of `mongo` or `redis` is on.
disk() (
  case $tenantry_platform in
  up) df -h "$tenantry_dev/data/$(tenantry_process "$1")" ;;
  *)
    case $1 in
    mongo) tenantry_inside mongo df -h /data/db ;;
    *) tenantry_inside "$1" df -h /data ;;
    esac
    ;;
  esac
)

# restart SERVICE: starts it, or restarts it, and keeps its log.
restart() (
  case $tenantry_platform in
  up)
    before=$(tenantry_pid "$1") || exit
    # `up` also starts a process again that has ended by itself. A running one may have a minute of work to finish first.
    if kill -0 "$before" 2>/dev/null; then kill "$before"; fi
    for _ in $(seq 90); do
      [ "$(tenantry_pid "$1")" = "$before" ] || exit 0
      sleep 1
    done
    tenantry_fail "$1 was not started again; see the terminal of \`cargo xtask up\`"
    ;;
  compose) tenantry_compose restart "$1" ;;
  *) tenantry_kubectl rollout restart "$(tenantry_workload "$1")" ;;
  esac
)

# scale SERVICE COUNT: runs as many processes of it.
scale() (
  case $tenantry_platform in
  up) tenantry_fail "\`cargo xtask up\` runs one process of each; use Docker Compose to run several" ;;
  compose) tenantry_compose up --detach --no-deps --no-recreate --scale "$1=$2" "$1" ;;
  *) tenantry_kubectl scale "$(tenantry_workload "$1")" --replicas="$2" ;;
  esac
)

# metrics SERVICE: what one process of `api` or `worker` tells Prometheus.
metrics() (
  case $tenantry_platform in
  up)
    kill -0 "$(tenantry_pid "$1")" 2>/dev/null || tenantry_fail "$1 is not running"
    tenantry_up
    case $1 in
    api) listen=$TENANTRY__API__INTERNAL_LISTEN ;;
    *) listen=$TENANTRY__WORKER__INTERNAL_LISTEN ;;
    esac
    curl -fsS --max-time 10 "http://$listen/metrics"
    ;;
  *)
    # The image has no HTTP client.
    # shellcheck disable=SC2016 # expanded in the container
    tenantry_inside "$1" bash -c '
      case $1 in
      api) listen=$TENANTRY__API__INTERNAL_LISTEN ;;
      *) listen=$TENANTRY__WORKER__INTERNAL_LISTEN ;;
      esac
      exec 3<>"/dev/tcp/127.0.0.1/${listen##*:}"
      printf "GET /metrics HTTP/1.0\r\n\r\n" >&3
      cat <&3
    ' - "$1" | tr -d '\r' | sed '1,/^$/d'
    ;;
  esac
)

# connections SERVICE: the established connections of one process, counted by peer. Linux only.
connections() (
  case $tenantry_platform in
  up)
    pid=$(tenantry_pid "$1") || exit
    [ -r "/proc/$pid/net/tcp" ] || tenantry_missing "/proc/$pid/net/tcp" "this system does not list connections there"
    sockets=$(find "/proc/$pid/fd" -lname 'socket:*' -printf '%l ' | tr -c '0-9 ' ' ')
    tenantry_peers "$sockets" <"/proc/$pid/net/tcp"
    ;;
  *) tenantry_inside "$1" cat /proc/net/tcp | tenantry_peers '' ;;
  esac
)

# Counts the connections in /proc/net/tcp by peer: those of these sockets, or all if none is given.
tenantry_peers() {
  awk -v sockets="$1" '
    function hex(text, at) { return index("123456789ABCDEF", substr(text, at, 1)) }
    function byte(text, at) { return 16 * hex(text, at) + hex(text, at + 1) }
    function address(text) { return byte(text, 7) "." byte(text, 5) "." byte(text, 3) "." byte(text, 1) }
    function port(text) { return 256 * byte(text, 10) + byte(text, 12) }
    BEGIN { count = split(sockets, list, " "); for (at in list) own[list[at]] = 1 }
    NR == 1 || (count > 0 && !($10 in own)) { next }
    $4 == "0A" { listens[port($2)] = 1 }
    $4 == "01" { connections++; ours[connections] = $2; theirs[connections] = $3 }
    END {
      for (at = 1; at <= connections; at++) {
        if (port(ours[at]) in listens) print "from " address(theirs[at]) " to port " port(ours[at])
        else print "to " address(theirs[at]) ":" port(theirs[at])
      }
    }' | sort | uniq -c | sort -rn
}

# ---- Prometheus and Alertmanager -------------------------------------------------------------------------------------------

# prometheus PATH, alertmanager PATH: an answer of their HTTP API.
prometheus() (
  case $tenantry_platform in
  up) tenantry_up ;;
  compose) TENANTRY_PROMETHEUS_URL=${TENANTRY_PROMETHEUS_URL:-$tenantry_compose_prometheus} ;;
  esac
  [ -n "${TENANTRY_PROMETHEUS_URL:-}" ] || tenantry_missing Prometheus "set TENANTRY_PROMETHEUS_URL, or use \`cargo xtask up --with-prometheus\`"
  curl -fsS --max-time 10 "$TENANTRY_PROMETHEUS_URL$1"
)

alertmanager() (
  case $tenantry_platform in
  up) tenantry_up ;;
  compose) TENANTRY_ALERTMANAGER_URL=${TENANTRY_ALERTMANAGER_URL:-$tenantry_compose_alertmanager} ;;
  esac
  [ -n "${TENANTRY_ALERTMANAGER_URL:-}" ] || tenantry_missing Alertmanager "set TENANTRY_ALERTMANAGER_URL"
  curl -fsS --max-time 10 "$TENANTRY_ALERTMANAGER_URL$1"
)

# ---- the API as its clients reach it ---------------------------------------------------------------------------------------

# check_api: whether the API answers at app.public_url, and whether it is the API of this installation. Another one may
# answer at the same port. An installation is recognised by its signing keys: an API publishes those of its database.
check_api() (
  url=$(api --check-config | sed -n 's/^app\.public_url = "\(.*\)" (.*)$/\1/p')
  served=$(curl -fsS --max-time 10 "$url/.well-known/jwks.json" | jq -r '.keys[].kid')
  [ -n "$served" ] || tenantry_fail "no API answers at $url"
  own=$(api keys list --json | jq -r .key)
  [ -n "$own" ] || tenantry_fail "an API answers at $url; the keys of this installation cannot be read to tell whether it belongs to it"
  echo "$served" | grep -qxF "$own" ||
    tenantry_fail "the API that answers at $url belongs to another installation: it does not know the signing keys in this database"
  echo "the API of this installation answers at $url"
)
