#!/usr/bin/env bash
# Three nodes on this machine run a real job; one of them is killed in the middle; the answer is right all the same.
#
# Usage: demo.sh SWARM
# SWARM is the swarm binary. Everything it starts is stopped, by process id, however the script ends.
set -euo pipefail

swarm=$(realpath "${1:?usage: demo.sh SWARM}")
examples=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
pids=()

say() { printf '\n== %s\n' "$*"; }

cleanup() {
    for pid in "${pids[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# start NUMBER [FLAG…]: starts a node and waits until it is ready; its dialable address is then in $work/NUMBER.out
start() {
    local number=$1; shift
    "$swarm" start --data "$work/node$number" --name "node$number" --listen /ip4/127.0.0.1/tcp/0 --slots 1 "$@" \
        >"$work/$number.out" 2>"$work/$number.err" &
    pids[number]=$!
    until grep -qx ready "$work/$number.out"; do
        kill -0 "${pids[number]}" 2>/dev/null || { cat "$work/$number.err" >&2; exit 1; }
        sleep 0.05
    done
    echo "node$number runs as process ${pids[number]}"
}

# on NUMBER COMMAND…: asks that node
on() { local number=$1; shift; "$swarm" --node "$work/node$number" "$@"; }

field() { grep -oE "\"$1\": ?[0-9]+" | head -1 | grep -oE '[0-9]+$'; }

# until_true SECONDS COMMAND…
until_true() {
    local deadline=$((SECONDS + $1)); shift
    until "$@"; do
        ((SECONDS < deadline)) || { echo "waited in vain for: $*" >&2; exit 1; }
        sleep 0.05
    done
}

knows_all() { [[ $(on 3 nodes -o json | grep -oE '"state": ?"alive"' | wc -l) -eq 3 ]]; }
is_busy() { local busy; busy=$(on 2 status -o json | field slots_busy) && ((busy > 0)); }

say "Starting three nodes"
start 1
address=$(awk '$1 == "listen" { print $2; exit }' "$work/1.out")
start 2 --bootstrap "$address"
start 3 --bootstrap "$address"
until_true 20 knows_all
on 3 nodes

say "Counting words: one task a text, handed to node1"
mkdir "$work/wordcount"
cp "$examples"/wordcount/*.wasm "$work/wordcount/"
"$examples/wordcount/collect-texts.sh" "$work/wordcount/texts"
# The job of examples/wordcount, except that each text is read many times over, so that there is something to watch.
cat >"$work/wordcount/job.toml" <<'JOB'
name = "wordcount"

[task.count]
wasm    = "count.wasm"
each    = { files = "texts/*" }
inputs.text = { item = true }
args    = ["/in/text", "250"]
outputs = ["counts.txt"]

[task.top]
wasm         = "top.wasm"
needs        = ["count"]
inputs.parts = { from = "count", path = "counts.txt", as = "{{ index }}.txt" }
outputs      = ["all.txt"]
JOB
job=$(on 1 submit "$work/wordcount/job.toml" -o id)
echo "submitted: $job"

until_true 30 is_busy
say "Killing node2 (process ${pids[2]}) while it executes"
kill -KILL "${pids[2]}"
on 3 wait "$job" --timeout 5m
on 3 nodes

say "The 20 most frequent words, from node3"
on 3 logs "$job/top" | tee "$work/counted"
"$examples/wordcount/expected.sh" "$work/wordcount/texts" >"$work/expected"
diff "$work/expected" "$work/counted"
echo "the same as sort and uniq say"

say "Rendering a fractal on the two nodes that are left, handed to node3"
poster=$(on 3 submit "$examples/fractal/job.toml" -o id)
on 1 wait "$poster" --timeout 5m
rm -rf swarm-demo
on 1 get "$poster/stitch" swarm-demo
picture=$(find "$PWD/swarm-demo" -name poster.png)
say "Done. The picture: $picture"
