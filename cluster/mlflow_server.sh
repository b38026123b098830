#!/usr/bin/env bash
# MLflow's tracking server over PostgreSQL, on this machine and for this machine alone.
#
#   mlflow_server.sh start FOLDER ARTIFACTS [URI]
#                                             both, in the background; what runs already is left as it is.
#                                             A new FOLDER begins with what `save` has left at URI, if it has
#   mlflow_server.sh stop FOLDER              both
#   mlflow_server.sh dump FOLDER FILE         everything but the artifacts, into one file
#   mlflow_server.sh restore FOLDER FILE      from such a file, before the first start in FOLDER
#   mlflow_server.sh save FOLDER URI          the dump and the logs of Ray's jobs, to s3://BUCKET/PREFIX, gs://...
#   mlflow_server.sh keep FOLDER URI          the same every hour, in the background, until stop
#
# FOLDER keeps the database and the logs; ARTIFACTS is s3://BUCKET/PREFIX, gs://... or a folder. PostgreSQL
# listens on a socket in FOLDER and lets in nobody but the user who started it: there is no password to keep.
# MLflow listens on 127.0.0.1, port 5000 (or $MLFLOW_PORT): ssh -L 5000:127.0.0.1:5000, or `ray attach -p
# 5000`.
set -euo pipefail

port=${MLFLOW_PORT:-5000}
url=http://127.0.0.1:$port

fail() {
    echo "mlflow_server: $*" >&2
    exit 1
}

usage() {
    sed -n '4,11s/^#   //p' "${BASH_SOURCE[0]}" >&2
    exit 2
}

# PostgreSQL's own programs, which Debian keeps off the PATH.
find_postgresql() {
    local found
    found=$(compgen -G '/usr/lib/postgresql/*/bin' | sort -V | tail -n 1) || true
    [ -n "$found" ] && PATH=$found:$PATH
    command -v pg_ctl > /dev/null
}

install_postgresql() {
    find_postgresql && return
    command -v apt-get > /dev/null || fail "no PostgreSQL, and no apt-get: install it, then start again"
    # The package would start a server of its own.
    sudo mkdir -p /etc/postgresql-common
    echo 'create_main_cluster = false' | sudo tee /etc/postgresql-common/createcluster.conf > /dev/null
    sudo apt-get update -qq
    sudo DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql > /dev/null
    find_postgresql || fail "PostgreSQL was installed, but pg_ctl is not found"
}

start_database() {
    [ "$(id -u)" -ne 0 ] || fail "PostgreSQL does not run as root: start this as another user"
    install_postgresql
    if [ ! -s "$data/PG_VERSION" ]; then
        initdb --pgdata="$data" --auth-local=peer --auth-host=reject --encoding=UTF8 > "$folder/initdb.log" ||
            fail "initdb failed: $folder/initdb.log"
        printf "listen_addresses = ''\nunix_socket_directories = '%s'\n" "$folder" >> "$data/postgresql.conf"
    fi
    pg_ctl --pgdata="$data" status > /dev/null ||
        pg_ctl --pgdata="$data" --log="$folder/postgresql.log" --wait start > /dev/null ||
        fail "PostgreSQL does not start: $folder/postgresql.log"
    psql --host="$folder" --dbname=postgres --tuples-only --command='\list' | grep -q '^ *mlflow ' && return
    createdb --host="$folder" mlflow
    [ -z "${1:-}" ] || restore_saved "$1"
}

# Else the next `save` would put an empty database in the place of the saved one.
restore_saved() { # URI
    if copy_saved "$1" "$folder/saved.dump"; then
        [ ! -s "$folder/saved.dump" ] ||
            pg_restore --host="$folder" --dbname=mlflow --exit-on-error "$folder/saved.dump" && return
    fi
    dropdb --host="$folder" mlflow  # so that the next start tries again
    fail "$1/mlflow.dump cannot be restored; move it away to begin with an empty record"
}

copy_saved() { # URI FILE: an empty file if there is none
    python - "$1" "$2" <<'PYTHON'
import pathlib, shutil, sys
from pyarrow import fs

uri, target = sys.argv[1:]
store, root = fs.FileSystem.from_uri(uri)
pathlib.Path(target).write_bytes(b"")
if store.get_file_info(f"{root}/mlflow.dump").is_file:
    with store.open_input_stream(f"{root}/mlflow.dump") as source, open(target, "wb") as file:
        shutil.copyfileobj(source, file)
PYTHON
}

answers() {
    python -c "import urllib.request as u; u.urlopen('$url/health', timeout=5)" 2> /dev/null
}

start_server() {
    answers && return
    # setsid: it outlives the terminal. Its queue of jobs serves nothing that studies use.
    MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false setsid nohup mlflow server \
        --host 127.0.0.1 --port "$port" --workers 2 \
        --backend-store-uri "postgresql+psycopg2:///mlflow?host=$folder" \
        --serve-artifacts --artifacts-destination "$1" \
        < /dev/null >> "$folder/mlflow.log" 2>&1 &
    local server=$!
    for _ in $(seq 90); do
        sleep 1
        answers && { echo "$server" > "$folder/mlflow.pid"; return; }
        kill -0 "$server" 2> /dev/null || break
    done
    kill "$server" 2> /dev/null || true
    fail "MLflow's server does not start: $folder/mlflow.log"
}

dump_to() { # FILE
    find_postgresql || fail "PostgreSQL is not installed"
    pg_dump --host="$folder" --dbname=mlflow --format=custom --file="$1"
}

# Under its name, and under that of the weekday: a dump of a database that is broken does not replace all.
save_to() { # URI
    dump_to "$folder/latest.dump"
    python - "$folder/latest.dump" "$1" <<'PYTHON'
import datetime, os, pathlib, shutil, sys
from pyarrow import fs

dump, uri = sys.argv[1:]
store, root = fs.FileSystem.from_uri(uri)
files = {"mlflow.dump": dump, f"mlflow-{datetime.date.today():%a}.dump": dump}
# Of earlier sessions too: `ray up` begins another. Not by session_latest, which is a link to one of these.
ray = pathlib.Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray")
logs = ray.glob("session_[0-9]*/logs/job-driver-*.log")
files |= {f"jobs/{path.name}": path for path in logs}
for name, path in files.items():
    if isinstance(store, fs.LocalFileSystem):
        store.create_dir(str(pathlib.Path(root, name).parent))
    with open(path, "rb") as source, store.open_output_stream(f"{root}/{name}") as target:
        shutil.copyfileobj(source, target)
PYTHON
}

end_keeping() {
    [ ! -s "$folder/keep.pid" ] || kill -TERM -- "-$(< "$folder/keep.pid")" 2> /dev/null || true
    rm -f "$folder/keep.pid"
}

keep_to() { # URI
    end_keeping
    # A failure is written down, and the next hour tries again.
    # shellcheck disable=SC2016  # the inner shell's
    setsid nohup bash -c 'while sleep 3600; do bash "$0" save "$1" "$2" || date; done' \
        "${BASH_SOURCE[0]}" "$folder" "$1" < /dev/null >> "$folder/keep.log" 2>&1 &
    echo $! > "$folder/keep.pid"
}

stop_all() {
    end_keeping
    # The server and its workers: setsid made them one group.
    [ ! -s "$folder/mlflow.pid" ] || kill -TERM -- "-$(< "$folder/mlflow.pid")" 2> /dev/null || true
    rm -f "$folder/mlflow.pid"
    find_postgresql || fail "PostgreSQL is not installed"
    pg_ctl --pgdata="$data" status > /dev/null && pg_ctl --pgdata="$data" --mode=fast --wait stop > /dev/null
}

[ $# -ge 2 ] || usage
mkdir -p "$2"
chmod 700 "$2"
folder=$(cd "$2" && pwd)
data=$folder/postgresql
# A socket's path has room for 107 characters.
[ ${#folder} -le 85 ] || fail "$folder: too long for PostgreSQL's socket; 85 characters at most"

case $1-$# in
    start-3 | start-4)
        start_database "${4:-}"
        start_server "$3"
        echo "MLflow: $url (this machine only), artifacts in $3"
        ;;
    stop-2) stop_all ;;
    dump-3)
        dump_to "$3"
        ;;
    restore-3)
        start_database
        pg_restore --host="$folder" --dbname=mlflow --exit-on-error "$3"
        ;;
    save-3) save_to "$3" ;;
    keep-3)
        # The first time now: a right that is missing is seen at once.
        save_to "$3"
        keep_to "$3"
        ;;
    *) usage ;;
esac
