#!/bin/sh
# Copies 30 to 60 plain-text files, 500 kB to 2 MB in all, that this machine has anyway into DEST, a new or empty
# directory: licences and copyright notices of a Debian system; where those are not enough, the documentation of the
# Rust toolchain and the files of this repository. The same machine gives the same files under the same names.
#
# Usage: collect-texts.sh DEST
# Exits with 0, or with 1 and one sentence on stderr when it finds too little, copying nothing.
set -eu
export LC_ALL=C

files_min=30 files_max=60 bytes_min=500000 bytes_max=2000000

fail() {
    echo "collect-texts.sh: $1" >&2
    exit 1
}

[ $# -eq 1 ] || fail "usage: collect-texts.sh DEST"
dest=$1
[ -z "$(ls -A "$dest" 2>/dev/null)" ] || fail "$dest is not empty; remove it first."

chosen=$(mktemp) seen=$(mktemp)
trap 'rm -f "$chosen" "$seen"' EXIT
files=0 bytes=0

# Chooses from the directory $1 the files that match the other arguments of find: of 2 to 40 kB, so that no file
# dominates; the largest first, because that reaches the minimum soonest; of equal files the first only.
choose_from() {
    directory=$1
    shift
    [ -d "$directory" ] || return 0
    list=$(find "$directory" -type f "$@" -size +2000c -size -40000c -exec wc -c {} + | grep -v ' total$' | sort -k1,1nr -k2) || true
    while read -r size path; do
        [ -n "$path" ] && [ -r "$path" ] && grep -qI . "$path" || continue # -I: a binary file does not match
        hash=$(cksum <"$path")
        ! grep -qxF "$hash" "$seen" || continue
        [ "$files" -lt "$files_max" ] && [ $((bytes + size)) -le "$bytes_max" ] || break
        echo "$hash" >>"$seen"
        echo "$path" >>"$chosen"
        files=$((files + 1)) bytes=$((bytes + size))
    done <<END
$list
END
}

enough() {
    [ "$files" -ge "$files_min" ] && [ "$bytes" -ge "$bytes_min" ]
}

choose_from /usr/share/common-licenses
choose_from /usr/share/doc -name copyright
if ! enough && toolchain=$(rustc --print sysroot 2>/dev/null); then
    choose_from "$toolchain/share/doc" \
        \( -name '*.md' -o -name '*.txt' -o -name '*.html' -o -name 'LICENSE*' -o -name 'COPYRIGHT*' \)
fi
if ! enough; then
    choose_from "$(cd "$(dirname "$0")/../.." && pwd)" \
        \( -name '*.md' -o -name '*.rs' -o -name '*.c' -o -name '*.toml' \) ! -path '*/target/*'
fi
enough || fail "this machine has only $files suitable texts of $bytes bytes in all; $files_min texts of $bytes_min bytes are needed."

# The number makes the names unique, the last two parts of the path make them telling: 07-bash-copyright.txt
mkdir -p "$dest"
number=0
while read -r path; do
    number=$((number + 1))
    name=$(basename "$(dirname "$path")")-$(basename "$path" .txt)
    cp "$path" "$dest/$(printf '%02d-%s.txt' "$number" "$name" | tr -c 'A-Za-z0-9._-' '_')"
done <"$chosen"
echo "$files texts, $bytes bytes in $dest" >&2
