# The suite app of drupe bench, on every target: a database and a web server, each
# with its load beside it. The argument is a port of 127.0.0.1 that is free. What
# the load generators print is what drupe reads.
set -eu
port=$1 data=/data/app
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
for directory in /usr/lib/postgresql/*/bin; do PATH=$PATH:$directory; done
for program in initdb postgres psql pgbench nginx ab setpriv; do
  command -v $program >/dev/null || { echo "the image has no $program" >&2; exit 1; }
done
servers=
# Nothing stays, and who has failed says why.
end() {
  status=$?
  [ $status = 0 ] || cat $data/server $data/said >&2
  [ -z "$servers" ] || kill -TERM $servers || true
  wait
  rm -rf $data
  exit $status
}
rm -rf $data
mkdir -p $data/db $data/www
touch $data/server $data/said
trap end EXIT
# Waits until a command works that a server has to answer.
answered() {
  for _ in $(seq 600); do
    if "$@" >$data/said 2>&1; then return; fi
    kill -0 $servers 2>/dev/null || break
    sleep 0.1
  done
  exit 1
}

# PostgreSQL does not run as root.
chown postgres $data/db
as="setpriv --reuid=postgres --regid=postgres --clear-groups"
export PGHOST=$data/db PGUSER=postgres PGDATABASE=postgres
$as initdb -D $data/db -U postgres -A trust -E UTF8 --no-locale --no-sync >$data/said 2>&1
$as postgres -D $data/db -k $data/db -c listen_addresses= \
  -c dynamic_shared_memory_type=mmap >$data/server 2>&1 &
servers=$!
answered psql -c 'select 1'
pgbench -i -s 1 -q >$data/said 2>&1
pgbench -n -c 4 -j 1 -T 3 2>$data/said
kill -TERM $servers
wait
servers=

head -c 1024 /dev/zero >$data/www/file
cat >$data/nginx.conf <<END
daemon off;
worker_processes 1;
pid $data/pid;
error_log stderr;
events {}
http {
  access_log off;
  keepalive_requests 1000000000;
  server { listen 127.0.0.1:$port; root $data/www; }
}
END
nginx -c $data/nginx.conf -e stderr >$data/server 2>&1 &
servers=$!
answered ab -q -n 1 http://127.0.0.1:$port/file
# ab takes 32 bytes of memory for each request that there may be.
ab -q -k -c 8 -t 3 -n 1000000 http://127.0.0.1:$port/file 2>$data/said
