#!/bin/sh
# Prints what the task `top` must print for the texts in DIR, worked out with the system's own tools.
#
# Usage: expected.sh DIR
set -eu
export LC_ALL=C

[ $# -eq 1 ] && [ -d "$1" ] || { echo "usage: expected.sh DIR" >&2; exit 1; }

# The line break after each text keeps its last word apart from the first of the next.
for text in "$1"/*; do
    cat "$text"
    echo
done |
    tr 'A-Z' 'a-z' |
    tr -cs 'a-z' '\n' |
    grep . |
    sort |
    uniq -c |
    sort -k1,1nr -k2,2 |
    awk 'NR <= 20 { print $1, $2 }'
