# The second half of the story, sourced by story.sh: a training job at a real PostgreSQL, whose credential is rotated while
# it runs and whose cluster loses its leader in the middle of that. Needs postgres.sh and the functions of story.sh.

step "A PostgreSQL server holds the training data; nobody will know its passwords"
postgres_start || fail "PostgreSQL does not start"
say "PostgreSQL is at $PGHOST:$PGPORT"
rotator=$(random 24)
first=$(random 24)
postgres_sql "CREATE DATABASE iris" </dev/null
postgres_iris() { postgres_as "$(postgres_bin)/psql" -XAtq --set ON_ERROR_STOP=1 -h "$postgres_dir" -p "$PGPORT" -U postgres -d iris "$@"; }
postgres_iris <<SQL
SET log_statement = 'none';
CREATE TABLE iris (id serial PRIMARY KEY, sepal_length float8, sepal_width float8, petal_length float8, petal_width float8, class int);
CREATE ROLE hizo_rotator LOGIN CREATEROLE PASSWORD '$rotator';
CREATE ROLE train_a LOGIN PASSWORD '$first';
CREATE ROLE train_b LOGIN;
GRANT SELECT ON iris TO train_a, train_b;
SQL
tail -n +2 "$here/data/iris.csv" | postgres_iris -c "COPY iris (sepal_length, sepal_width, petal_length, petal_width, class) FROM STDIN (FORMAT csv)"
printf hizo_rotator >"$files/rotator"
printf train_a >"$files/trainer"
show "hizo secret put ml/pg/admin username=@rotator password=-"
printf '%s' "$rotator" | hizo secret put ml/pg/admin username=@"$files/rotator" password=- 2>&1 | indent
show "hizo secret put ml/pg/train username=@trainer password=-"
printf '%s' "$first" | hizo secret put ml/pg/train username=@"$files/trainer" password=- 2>&1 | indent
unset rotator

step "A pipeline names who may run and what a run gets; its credential is to rotate every night"
run hizo workload create nightly
run hizo pipeline create ml/nightly --identity nightly
run hizo pipeline env set ml/nightly DB_USER=hizo://ml/pg/train#username DB_PASSWORD=hizo://ml/pg/train#password
show "hizo rotation set ml/pg/train --cron '0 3 * * *' --tz Europe/Berlin --target postgresql"
show "     --option mode=alternating --option roles=train_a,train_b --option admin=ml/pg/admin …"
show "     --grace 2s --wait-for-consumers"
hizo rotation set ml/pg/train --cron '0 3 * * *' --tz Europe/Berlin --target postgresql \
  --option host="$PGHOST" --option port="$PGPORT" --option database=iris --option tls=disable \
  --option mode=alternating --option roles=train_a,train_b --option admin=ml/pg/admin \
  --grace 2s --wait-for-consumers 2>&1 | indent

step "A training job runs under hizo run --watch, with its credential in files that live in memory"
{ hizo workload secret-id nightly >"$files/nightly-id"; } 2>&1 | indent
as nightly hizo login --workload nightly --secret-id-file "$files/nightly-id" 2>&1 | indent
show "hizo run --watch --on-change signal:HUP --splay 1s --secret-file PGUSER_FILE=… --secret-file PGPASSWORD_FILE=… -- python3 stream.py 6"
as nightly hizo run --watch --on-change signal:HUP --splay 1s \
  --secret-file PGUSER_FILE=hizo://ml/pg/train#username --secret-file PGPASSWORD_FILE=hizo://ml/pg/train#password \
  -- "$DEMO_PYTHON" "$here/stream.py" 6 >"$files/stream.out" 2>&1 &
job=$!
await() { # await WHAT COMMAND: until the command succeeds
  local what=$1 try
  shift
  for ((try = 0; try < 600; try++)); do
    if "$@" >/dev/null 2>&1; then return 0; fi
    sleep 0.1
  done
  indent <"$files/stream.out"
  fail "waited in vain until $what"
}
await "the job trains" grep -q "6 passes done" "$files/stream.out"
hizo consumers --help >/dev/null 2>&1 && run hizo consumers ml/pg/train

step "Its credential is rotated while it runs, and in the middle of that the leader is killed"
leader=$(hizo cluster status --format json | json leader_id leaderId leader)
pid=$(cat "$DEMO_DIR/cluster/nodes/${leader##*[!0-9]}/pid")
show "hizo rotation run ml/pg/train; kill -KILL $pid      (the leader, $leader)"
hizo rotation run ml/pg/train 2>&1 | indent
kill -KILL "$pid"
wait "$job" || {
  indent <"$files/stream.out"
  fail "the job failed"
}
indent <"$files/stream.out"
grep -q ' 0 failed;' "$files/stream.out" || fail "a query failed"
retired() { hizo rotation status ml/pg/train --format json | grep -q '"stage": *"idle"\|"state": *"idle"'; }
await "the rotation has finished" retired
run hizo rotation history ml/pg/train
run hizo secret versions ml/pg/train

step "The old password is refused"
show "psql -U train_a      (with the password from before)"
if PGPASSWORD=$first psql -XAtq -d iris -U train_a -c 'SELECT 1' >"$files/old.out" 2>&1; then
  fail "the old password still works"
fi
indent <"$files/old.out"
unset first
postgres_stop
