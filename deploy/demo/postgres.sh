# A PostgreSQL server of one's own for a script: from Debian's package, on a free loopback port, with TLS off and
# SCRAM passwords, ended and removed with the script.
#
#   . deploy/demo/postgres.sh
#   postgres_installed || { echo "no PostgreSQL here"; exit 0; }
#   postgres_start                        # sets PGHOST PGPORT; the superuser is postgres, by socket without password
#   postgres_sql "CREATE ROLE train LOGIN PASSWORD 'x'"
#   postgres_stop                         # or let the script end
#
# It writes to a directory in /tmp (postgres_dir), because as root the server runs as the account postgres, which
# can't be expected to reach this one's folders. postgres_log is the server's log; every statement is in it.

postgres_bin() {
  local found
  found=$(compgen -G '/usr/lib/postgresql/*/bin/initdb' | sort -V | tail -n 1)
  [ -n "$found" ] && dirname "$found"
}

postgres_installed() { postgres_bin >/dev/null; }

# As root PostgreSQL refuses to run.
postgres_as() {
  if [ "$(id -u)" -eq 0 ]; then
    (cd / && exec setpriv --reuid postgres --regid postgres --clear-groups env -i PATH="$PATH" LC_ALL=C "$@")
  else
    env -i PATH="$PATH" LC_ALL=C "$@"
  fi
}

postgres_start() {
  local bin try
  bin=$(postgres_bin) || return 1
  postgres_dir=$(mktemp -d /tmp/hizo-demo-postgres.XXXXXX)
  if [ "$(id -u)" -eq 0 ]; then chown postgres:postgres "$postgres_dir"; fi
  postgres_log=$postgres_dir/log
  if ! postgres_as "$bin/initdb" --pgdata "$postgres_dir/data" --no-sync --no-instructions --username postgres \
    --auth-local trust --auth-host scram-sha-256 --encoding UTF8 --locale C >/dev/null; then
    rm -rf -- "$postgres_dir"
    return 1
  fi
  for try in 1 2 3 4 5; do # a port that was drawn may be taken
    PGPORT=$((20000 + (RANDOM * 7 + $$ + try) % 12000))
    if postgres_as "$bin/pg_ctl" --pgdata "$postgres_dir/data" --log "$postgres_log" --silent --wait --timeout 60 \
      --options "-p $PGPORT -c listen_addresses=127.0.0.1 -c unix_socket_directories=$postgres_dir -c fsync=off -c log_statement=all -c log_connections=on" \
      start >/dev/null 2>&1 9>&-; then
      export PGHOST=127.0.0.1 PGPORT
      # Ends the server with this script, however that ends: nothing here holds a pipe or a terminal of the script's.
      (
        trap '' INT HUP
        while kill -0 $$ 2>/dev/null && [ -d "$postgres_dir" ]; do sleep 1; done
        postgres_stop
      ) </dev/null >/dev/null 2>&1 9>&- &
      disown
      return 0
    fi
  done
  cat "$postgres_log" >&2
  rm -rf -- "$postgres_dir"
  return 1
}

postgres_sql() {
  postgres_as "$(postgres_bin)/psql" --no-psqlrc --quiet --tuples-only --no-align --set ON_ERROR_STOP=1 \
    --host "$postgres_dir" --port "$PGPORT" --username postgres --command "$1"
}

postgres_stop() {
  [ -d "${postgres_dir:-}" ] || return 0
  postgres_as "$(postgres_bin)/pg_ctl" --pgdata "$postgres_dir/data" --silent --mode immediate stop >/dev/null 2>&1 || true
  rm -rf -- "$postgres_dir"
}
